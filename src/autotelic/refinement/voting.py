"""Votes over answers, and when more of them cannot change the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

from autotelic.core.texts import comparable
from autotelic.refinement.work import Draft

__all__ = ["Vote", "decided", "vote"]


class Vote(NamedTuple):
    """Outcome of a vote."""

    winner: Draft
    """First draft with the winning answer."""
    share: float
    """Its share of the weight of all drafts, those without an answer included; in [0, 1]."""
    counts: tuple[int, ...]
    """Drafts for each answer, most first."""


def vote(drafts: Sequence[Draft], weights: Sequence[float] | None = None) -> Vote:
    """Let drafts vote for their answers; those that are `comparable` count together.

    Of equal weights the answer that more drafts gave wins, of these the one that came first. Without any answer the
    first draft does, with a share of 0.

    Args:
        drafts: at least one.
        weights: of each draft, none below 0; equal by default.
    """
    weights = weights if weights is not None else [1.0] * len(drafts)
    heavy: dict[str, float] = {}
    count: dict[str, int] = {}
    first: dict[str, Draft] = {}
    for draft, weight in zip(drafts, weights, strict=True):
        if draft.answer is None:
            continue
        said = comparable(draft.answer)
        heavy[said] = heavy.get(said, 0.0) + weight
        count[said] = count.get(said, 0) + 1
        first.setdefault(said, draft)
    if not first:
        return Vote(drafts[0], 0.0, ())
    best = max(heavy, key=lambda said: (heavy[said], count[said]))  # of equals the first
    total = sum(weights)
    return Vote(first[best], heavy[best] / total if total else 0.0, tuple(sorted(count.values(), reverse=True)))


def decided(counts: Sequence[int], left: int, confidence: float) -> bool:
    """Say whether a vote is over: it cannot be turned by `left` more drafts, or it is unlikely to be wrong.

    Source: arXiv 2305.11860, "Let's Sample Step by Step: Adaptive-Consistency", Beta criterion: the probability that
    the first answer is really more frequent than the second, after a uniform prior, is above `confidence`.

    Args:
        counts: drafts for each answer, most first.
        left: drafts that may still come.
        confidence: in (0, 1); 1 asks for certainty.
    """
    first, second = (*counts, 0, 0)[:2]
    if first > second + left:
        return True
    # P(p > 1/2) for p ~ Beta(first + 1, second + 1) is a binomial tail.
    n = first + second + 1
    return bool(counts) and sum(comb(n, k) for k in range(first + 1)) / 2**n > confidence
