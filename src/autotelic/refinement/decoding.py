"""Decoding: one draft or many, and how one of many is chosen.

Samples of one prompt are asked for in one request, so that the server computes the prompt once.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

from autotelic.agents import ToolLoop
from autotelic.core.errors import UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Message
from autotelic.refinement.voting import decided, vote
from autotelic.refinement.work import Count, Draft, Heat, Share, Strategy, Work, strategy_of
from autotelic.serving import Sampling

__all__ = ["best_of", "direct", "guided", "self_consistency", "tool_loop", "universal"]


def direct() -> Strategy:
    """The model's answer: one greedy draft, or n samples."""
    return _sampled("direct")


def guided(
    *,
    regex: str | None = None,
    grammar: str | None = None,
    schema: dict[str, Any] | None = None,
    choices: tuple[str, ...] | None = None,
) -> Strategy:
    """The model's answer in a form that the server holds it to.

    Args:
        regex: the answer matches it.
        grammar: the answer is a sentence of this EBNF grammar, which begins with `root`.
        schema: the answer is JSON that obeys this JSON schema.
        choices: the answer is one of these.

    Raises:
        UsageError: not exactly one of them is given.
    """
    forms = {"regex": regex, "grammar": grammar, "schema": schema, "choices": choices}
    given = {name: form for name, form in forms.items() if form is not None}
    if len(given) != 1:
        raise UsageError(f"guided takes one of {', '.join(forms)}; {len(given)} are given, e.g. regex='[0-9]+'.")
    return _sampled("guided", **given)


def tool_loop() -> Strategy:
    """Answers with tools: calls and results until there is an answer, within the work's bounds."""

    async def one(work: Work) -> Draft:
        if not work.toolbox.allowed:
            raise UsageError("tool_loop has no tools that may be called. Name some under tools.use.")
        loop = ToolLoop(work.meter, work.toolbox, work.bounds)
        sampling = Sampling(max_tokens=work.max_tokens, temperature=work.temperature, seed=derive(work.seed, "tools"))
        talk = await loop.answer(work.prompt(), sampling)
        answer = None if talk.answer is None else work.form.parse(work.task, talk.answer)
        return work.note(Draft(text=talk.turns[-1].completion.text, answer=answer, by="tool_loop"))

    return strategy_of(one)


def self_consistency(
    inner: Strategy | None = None,
    *,
    n: Count = 8,
    batch: Count | None = None,
    confidence: Share = 0.95,
    weigh: Literal["equal", "certainty", "critic"] = "equal",
    heat: Heat | None = None,
) -> Strategy:
    """The most frequent answer of up to `n` drafts.

    Sources: arXiv 2203.11171 (self-consistency); arXiv 2305.11860 (stopping when the vote is decided). Deviation: with
    weights, the counts alone decide when to stop.

    Args:
        inner: makes the drafts; `direct` by default.
        n: most drafts.
        batch: drafts between two looks at the vote; a quarter of `n` by default, `n` never stops early.
        confidence: see `decided`.
        weigh: `certainty` weighs a draft by its tokens' mean probability, `critic` by the critic's confidence.
        heat: temperature of the drafts; by default that of a run's attempts.
    """
    inner = inner or direct()
    step = batch or max(2, n // 4)

    async def one(work: Work) -> Draft:
        asked = replace(work.heated(heat), logprobs=weigh == "certainty")
        drafts: list[Draft] = []
        made = 0
        while made < n and (not made or not decided(vote(drafts).counts, n - made, confidence)):
            size = min(step, n - made)
            drafts += await inner(asked.branch(made), size)
            made += size
            work.note(vote(drafts).winner)
        weights = [await _weight(work, draft, weigh) for draft in drafts]
        winner, share, _ = vote(drafts, weights)
        return work.note(
            Draft(text=winner.text, answer=winner.answer, by="self_consistency", score=share, of=tuple(drafts))
        )

    return strategy_of(one)


def best_of(
    inner: Strategy | None = None,
    *,
    n: Count = 8,
    by: Literal["certainty", "critic", "checker"] = "certainty",
    heat: Heat | None = None,
) -> Strategy:
    """The best of `n` drafts.

    Sources: arXiv 2110.14168 (best of n by a verifier); arXiv 2502.18581 (self-certainty). Deviation: certainty is the
    mean log-probability of the tokens that were sampled, because the server gives no whole distributions.

    Args:
        inner: makes the drafts; `direct` by default.
        n: drafts.
        by: who chooses: the model's certainty, the critic, or the environment's checker where that may be used.
        heat: temperature of the drafts; by default that of a run's attempts.
    """
    inner = inner or direct()

    async def one(work: Work) -> Draft:
        drafts = await inner(replace(work.heated(heat), logprobs=by == "certainty").branch(0), n)
        scored = [draft.model_copy(update={"score": await _score(work, draft, by)}) for draft in drafts]
        best = max(scored, key=_worth)
        return work.note(Draft(text=best.text, answer=best.answer, by="best_of", score=best.score, of=tuple(scored)))

    return strategy_of(one)


def universal(inner: Strategy | None = None, *, n: Count = 5) -> Strategy:
    """The draft that the model itself finds most consistent with the others: a vote where no two texts are equal.

    Source: arXiv 2311.17311, "Universal Self-Consistency for Large Language Model Generation".

    Args:
        inner: makes the drafts; `direct` by default.
        n: drafts.
    """
    inner = inner or direct()

    async def one(work: Work) -> Draft:
        drafts = [draft for draft in await inner(work.branch(0), n) if draft.answer is not None]
        if not drafts:
            return Draft(text="", answer=None, by="universal")
        work.note(drafts[0])
        listed = "\n\n".join(f"Answer {i}: {draft.answer}" for i, draft in enumerate(drafts, 1))
        ask = Message(
            role="user",
            content=f"{work.task.question}\n\n{listed}\n\nWhich answer agrees most with the others? Reply its number.",
        )
        said = await work.choose([ask], [str(i) for i in range(1, len(drafts) + 1)])
        chosen = drafts[int(said) - 1] if said else drafts[0]
        return work.note(Draft(text=chosen.text, answer=chosen.answer, by="universal", of=tuple(drafts)))

    return strategy_of(one)


def _sampled(by: str, **sampling: Any) -> Strategy:
    """Return the strategy that asks for its drafts in one request; `sampling` holds fields of `Sampling`."""

    async def strategy(work: Work, n: int = 1) -> list[Draft]:
        completions = await work.ask(work.prompt(), n, **sampling)
        return [work.note(work.draft(completion, by)) for completion in completions]

    return strategy


def _worth(draft: Draft) -> tuple[bool, bool, float]:
    return draft.answer is not None, draft.score is not None, draft.score or 0.0


async def _weight(work: Work, draft: Draft, weigh: str) -> float:
    if weigh == "critic":
        return (await work.judge(draft)).confidence or 0.0
    if weigh == "certainty" and draft.certainty is not None:
        return math.exp(draft.certainty)
    return 1.0


async def _score(work: Work, draft: Draft, by: str) -> float | None:
    if by == "checker":
        right = await work.check(draft)
        return None if right is None else float(right)
    return (await work.judge(draft)).confidence if by == "critic" else draft.certainty
