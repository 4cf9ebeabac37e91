"""Where tasks are looked for: at what is about to be learned, and never only there."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotelic.core.words import Task
from autotelic.selection import Cell, Tried, focused, worth_of_cells

CELLS: list[Cell] = [("sum", 0), ("sum", 1), ("copy", 0), ("word", 0)]


def task(cell: Cell, i: int) -> Task:
    family, level = cell
    question = f"{family} {level} {i}"
    return Task.make(environment="gym", family=family, question=question, key={}, answer="", difficulty=level)


TASKS = [task(cell, i) for cell in CELLS for i in range(100)]


def tried(cell: Cell, n: int, rate: float, *, lucky: bool = False) -> list[Tried]:
    return [Tried(cell=cell, rate=rate, lucky=lucky)] * n


def drawn(worth: dict[Cell, float], focus: float, n: int = 100, seed: int = 0) -> Counter[Cell]:
    found = focused(TASKS, worth, focus, n, seed)
    assert len({one.id for one in found}) == n
    return Counter((one.family, one.difficulty) for one in found)


def test_what_is_learned_and_not_yet_solved_is_worth_most() -> None:
    worth = worth_of_cells([*tried(("sum", 0), 20, 0.3), *tried(("sum", 1), 20, 0.0), *tried(("copy", 0), 20, 0.9)])
    assert worth[("sum", 0)] > 3 * worth[("copy", 0)] > worth[("sum", 1)] > 0
    assert ("word", 0) not in worth
    assert worth_of_cells(tried(("sum", 0), 3, 0.3, lucky=True)) == {("sum", 0): pytest.approx(0.5 / 8)}
    found = drawn(worth, 0.8)
    assert found[("sum", 0)] > 40 and min(found[cell] for cell in CELLS) >= 3
    assert found[("word", 0)] > found[("sum", 1)], "what was never tried is worth more than what failed"


def test_without_focus_or_knowledge_all_cells_are_equal() -> None:
    for found in (drawn({cell: float(i) for i, cell in enumerate(CELLS)}, 0.0), drawn({}, 0.9)):
        assert all(15 <= found[cell] <= 35 for cell in CELLS)
    assert drawn(dict.fromkeys(CELLS, 0.0), 0.9).total() == 100, "solved everywhere"


@given(st.dictionaries(st.sampled_from(CELLS), st.floats(0, 1)), st.floats(0, 0.99), st.integers(1, 400), st.integers())
def test_any_draw_is_of_different_tasks_and_the_same_again(
    worth: dict[Cell, float], focus: float, n: int, seed: int
) -> None:
    assert drawn(worth, focus, n, seed) == drawn(worth, focus, n, seed)
