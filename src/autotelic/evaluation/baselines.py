"""What a policy would score by always giving the same answer, family by family.

A learned prior ("the gcd is mostly 1") looks like a skill until it stands beside the best constant answer. The row is
honest when the constant is chosen on other tasks than it is scored on; chosen on the suite itself, it is an upper
bound, and the row says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from autotelic.core.words import Frozen, Task

__all__ = ["ConstantBaseline", "constant_baselines", "overall_baseline"]


class ConstantBaseline(Frozen):
    """The best constant answer of one family."""

    family: str
    """Family of the tasks."""
    answer: str
    """The constant: the most frequent gold answer (ties: the alphabetically first)."""
    accuracy: float
    """Share of the suite's tasks whose gold answer it is."""
    n: int
    """Tasks of this family in the suite that have a gold answer."""
    chosen_on: Literal["sample", "suite"]
    """`sample`: chosen on independent tasks. `suite`: chosen on the suite itself, so an upper bound."""


def constant_baselines(suite: Sequence[Task], sample: Iterable[Task] = ()) -> list[ConstantBaseline]:
    """Return the best constant answer of every family of `suite`, by family name.

    Compares gold texts (outer white space aside), so where a checker takes several answers it is a lower bound of what
    a constant can get.

    Args:
        suite: tasks to score on; those without a gold answer are left out.
        sample: other tasks of the same distribution to choose the constant on; tasks of the suite in it are ignored.
            A family that does not occur in it is chosen on the suite itself.
    """
    own = {task.id for task in suite}
    scored, independent = _gold(suite), _gold(t for t in sample if t.id not in own)
    rows = []
    for family, answers in sorted(scored.items()):
        source = independent.get(family) or answers
        best = min(source, key=lambda answer: (-source[answer], answer))
        n = answers.total()
        rows.append(
            ConstantBaseline(
                family=family,
                answer=best,
                accuracy=answers[best] / n,
                n=n,
                chosen_on="sample" if family in independent else "suite",
            )
        )
    return rows


def overall_baseline(rows: Sequence[ConstantBaseline]) -> float | None:
    """Return the accuracy over the whole suite of knowing the family and saying its constant; `None` without rows."""
    n = sum(row.n for row in rows)
    return sum(row.accuracy * row.n for row in rows) / n if n else None


def _gold(tasks: Iterable[Task]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for task in tasks:
        if task.answer is not None:
            counts.setdefault(task.family, Counter())[task.answer.strip()] += 1
    return counts
