"""Solved examples from memory before the question: those nearest to it, or for each draft others of the near ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from autotelic.core.errors import UsageError
from autotelic.core.words import Message
from autotelic.refinement.decoding import direct
from autotelic.refinement.work import Count, Draft, Strategy, Work, strategy_of

__all__ = ["few_shot"]


def few_shot(inner: Strategy | None = None, *, k: Count = 3, pool: Count | None = None) -> Strategy:
    """A strategy that is shown solved examples from memory.

    With a `pool` larger than `k` every draft sees others: `self_consistency(few_shot(pool=24), heat=0)` is a vote over
    prompts instead of samples, which a model that is sure of its answers needs.

    Sources: arXiv 2101.06804, "What Makes Good In-Context Examples for GPT-3?" (the nearest); arXiv 2206.02336, "Making
    Large Language Models Better Reasoners with Step-Aware Verifier" (a vote over prompts).

    Args:
        inner: how the task is answered; `direct` by default.
        k: examples that a draft sees.
        pool: how many of the nearest each draft's examples are drawn from; `k` by default, so all see the same.
    """
    inner = inner or direct()

    async def strategy(work: Work, n: int = 1) -> list[Draft]:
        if work.examples is None:
            raise UsageError("few_shot shows what a memory holds, and there is none here. Name a run that has one.")
        near = await work.examples(max(k, pool or k))
        if len(near) <= k:
            return await inner(_shown(work, near), n)

        async def one(desk: Work) -> Draft:
            drawn = sorted(random.Random(desk.seed).sample(range(len(near)), k))
            return (await inner(_shown(desk, [near[i] for i in drawn])))[0]

        return await strategy_of(one)(work, n)

    return strategy


def _shown(work: Work, examples: Sequence[Sequence[Message]]) -> Work:
    """Put examples where memory's stand: between the system prompt and what was said."""
    system, *rest = work.opening
    return replace(work, opening=(system, *(message for turns in examples for message in turns), *rest))
