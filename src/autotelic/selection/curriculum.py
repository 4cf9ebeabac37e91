"""Where to look for tasks: at what the policy is about to learn, as far as the last rounds show.

A cell is a family at a difficulty. It is worth looking at where its tasks came to be trained on and are not yet solved.

Source: arXiv 2010.03934, "Prioritized Level Replay". Deviations: levels are cells, not single tasks, and their score is
what selection made of their tasks instead of an error of the value function, which there is none of.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from autotelic.core.words import Frozen, Score, Task

__all__ = ["Cell", "Tried", "focused", "worth_of_cells"]

Cell = tuple[str, int]
"""Family and difficulty."""

_SEEN, _KEPT = 5.0, 0.5
"""What is taken for granted of a cell before any of its tasks was tried: tasks, and those of them trained on."""


class Tried(Frozen):
    """One task that was attempted."""

    cell: Cell
    """Its family and difficulty."""
    rate: Score
    """Share of right attempts, in [0, 1]; `None` without a verdict."""
    kept: bool
    """Whether it came to be trained on."""


def worth_of_cells(tried: Iterable[Tried]) -> dict[Cell, float]:
    """Return for each cell the share of its tasks that was trained on, times the share of attempts that failed."""
    tasks: defaultdict[Cell, list[Tried]] = defaultdict(list)
    for one in tried:
        tasks[one.cell].append(one)
    found = {}
    for cell, own in tasks.items():
        rates = [one.rate for one in own if one.rate is not None]
        failed = 1 - sum(rates) / len(rates) if rates else 1.0
        found[cell] = (sum(one.kept for one in own) + _KEPT) / (len(own) + _SEEN) * failed
    return found


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
    of = {cell: worth.get(cell, _KEPT / _SEEN) for cell in sizes}
    total = sum(of.values())
    share = {cell: (1 - focus) / len(of) + (focus * of[cell] / total if total else 0.0) for cell in of}
    draw = Random(f"focused {seed}")

    def key(task: Task) -> float:  # weighted sampling without replacement: Efraimidis and Spirakis, 2006
        cell = (task.family, task.difficulty)
        weight = share[cell] / sizes[cell]
        return math.log(1 - draw.random()) / weight if weight else -math.inf

    return sorted(tasks, key=key, reverse=True)[:n]
