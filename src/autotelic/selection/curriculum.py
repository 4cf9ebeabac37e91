"""Where to look for tasks: at what the policy is about to learn, as far as the last rounds show.

A cell is a family at a difficulty. It is worth looking at where the policy solves tasks sometimes, by more than luck,
and fails as often.

Source: arXiv 2010.03934, "Prioritized Level Replay". Deviations: levels are cells, not single tasks, and their score
comes from solve rates, because there is no value function whose error it could be.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from autotelic.core.words import Frozen, Task

__all__ = ["Cell", "Tried", "focused", "worth_of_cells"]

Cell = tuple[str, int]
"""Family and difficulty."""

_SEEN, _WORTH = 5.0, 0.1
"""What is taken for granted of a cell: so many tasks of such a worth."""


class Tried(Frozen):
    """One task that was attempted."""

    cell: Cell
    """Its family and difficulty."""
    rate: float
    """Share of right attempts, in [0, 1]."""
    lucky: bool
    """Whether guesses may have been so often right."""


def worth_of_cells(tried: Iterable[Tried]) -> dict[Cell, float]:
    """Return for each cell the mean worth of its tasks, in [0, 1].

    A task is worth the share of its attempts that failed, if another was right and that was not luck; else nothing.
    """
    tasks: defaultdict[Cell, list[float]] = defaultdict(list)
    for one in tried:
        tasks[one.cell].append(1 - one.rate if one.rate and not one.lucky else 0.0)
    return {cell: (sum(own) + _SEEN * _WORTH) / (len(own) + _SEEN) for cell, own in tasks.items()}


def focused(tasks: Sequence[Task], worth: Mapping[Cell, float], focus: float, n: int, seed: int) -> list[Task]:
    """Draw `n` of the tasks without replacement.

    Args:
        tasks: what there is.
        worth: of their cells; one that is not in it counts as never tried.
        focus: share drawn by the worth of cells, in [0, 1]; the rest is drawn evenly from all cells.
        n: how many, at most as many as there are.
        seed: of the draw.
    """
    sizes = Counter((task.family, task.difficulty) for task in tasks)
    of = {cell: worth.get(cell, _WORTH) for cell in sizes}
    total = sum(of.values())
    share = {cell: (1 - focus) / len(of) + (focus * of[cell] / total if total else 0.0) for cell in of}
    draw = Random(f"focused {seed}")

    def key(task: Task) -> float:  # weighted sampling without replacement: Efraimidis and Spirakis, 2006
        cell = (task.family, task.difficulty)
        weight = share[cell] / sizes[cell]
        return math.log(1 - draw.random()) / weight if weight else -math.inf

    return sorted(tasks, key=key, reverse=True)[:n]
