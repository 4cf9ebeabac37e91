"""Luck: would a policy have been right so often had it not read the task?

Where a family has few answers, some guesses are right, and a solve rate between 0 and 1 then marks a coin and not
something learnable: trained on, such rows move the policy's habits to and fro. What it answers to the family's other
tasks is what it answers without reading this one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import comb

from autotelic.core.texts import comparable
from autotelic.core.words import Frozen

__all__ = ["Answered", "luck"]


class Answered(Frozen):
    """One judged answer to a task."""

    task_id: str
    """Task."""
    family: str
    """Its family."""
    answer: str
    """What was answered."""
    right: bool
    """Whether that was right."""


def luck(answers: Iterable[Answered]) -> dict[str, float]:
    """Return the luck of every task that was solved, in [0, 1].

    That is the probability of at least as many right attempts as there were, if each were drawn from the answers given
    to the family's other tasks (a binomial tail). In a family with one task nothing is known, and the luck is 0.
    """
    given: defaultdict[str, Counter[str]] = defaultdict(Counter)
    right: defaultdict[str, Counter[str]] = defaultdict(Counter)
    families: defaultdict[str, Counter[str]] = defaultdict(Counter)
    of: dict[str, str] = {}
    for one in answers:
        said = comparable(one.answer)
        of[one.task_id] = one.family
        given[one.task_id][said] += 1
        families[one.family][said] += 1
        if one.right:
            right[one.task_id][said] += 1
    found = {}
    for task, solving in right.items():
        own, family = given[task], families[of[task]]
        others = family.total() - own.total()
        prior = sum(family[said] - own[said] for said in solving) / others if others else 0.0
        found[task] = _tail(solving.total(), own.total(), prior)
    return found


def _tail(least: int, n: int, p: float) -> float:
    """Probability of at least `least` hits in `n` draws."""
    return min(1.0, sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(least, n + 1)))
