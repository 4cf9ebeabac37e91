"""The evaluator tests itself before it is believed.

Wrong checkers have made papers: gold and answer swapped (R-Zero #31), a substring test the wrong way round, an error
counted as a zero. So every evaluation begins with answer sheets whose result is known: the gold answers must score 1.0,
sheets that cannot be right must score 0.0, one answer to everything must be right about as often as it is the gold one,
and right answers handed to the wrong tasks must score far lower. All of them need a verdict: a checker that gives none
on a wrong answer hides losses.

Not covered: a checker that errs on rare answers only, and tasks without a gold answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Protocol

from autotelic.core.errors import EnvironmentFailure
from autotelic.core.words import Frozen, Score, Task
from autotelic.environments import Checked, solved

__all__ = ["Checks", "SelfTest", "Sheet", "self_test"]

SWAPPED_LIMIT = 0.5
"""Largest share that right answers on the wrong tasks may score: some tasks take several answers, none takes most."""

CONSTANTS = ("nan", "0", "1", "[]", "True")
"""Answers that careless checkers have taken for right everywhere."""
SAMPLE = 30
"""Tasks of a family on which wrong answers are tried; the gold answers are judged on all."""
LUCK_LIMIT = 0.25
"""Largest share of a family in which one constant may be right besides the gold answer; in one task it always may."""


class Checks(Protocol):
    """The part of an environment that is tested."""

    async def check(self, task: Task, answer: str | None) -> Checked:
        """Judge an answer."""
        ...


class Sheet(Frozen):
    """One answer sheet and how it came out."""

    name: str
    """What is on it."""
    n: int
    """Answers on it."""
    accuracy: float
    """Share judged right; an answer without a verdict is not right."""
    unjudged: int
    """Answers without a verdict; has to be 0."""
    expected: str
    """What it has to be, in words."""
    passed: bool
    """Whether it is."""


class SelfTest(Frozen):
    """What the self-test measured."""

    sheets: tuple[Sheet, ...]
    """Every sheet, in the order good, bad, constant, swapped."""
    untested: int
    """Tasks that could not be used because they have no gold answer."""


async def self_test(environment: Checks, tasks: Sequence[Task]) -> SelfTest:
    """Judge known-good, known-bad, constant and swapped answer sheets with the environment's own checker.

    The sheets: the gold answers; nothing at all; an empty answer; nonsense; all gold answers of the family in one
    answer (whoever lists every guess has not answered); the same answer everywhere, for each of `CONSTANTS`; and each
    gold answer on another task of its family that has a different one.

    Args:
        environment: whose `check` is tested.
        tasks: what it is tested on; two with different gold answers in each family make the swap possible.

    Raises:
        EnvironmentFailure: a sheet came out wrong, or no task has a gold answer; the message has the figures.
    """
    usable = [(task, task.answer) for task in tasks if task.answer is not None]
    if not usable:
        raise EnvironmentFailure(
            f"the evaluator cannot test itself: none of {len(tasks)} tasks has a gold answer. Give the environment's "
            "tasks an `answer`, or evaluate with one that does."
        )
    sheets = [await _judge(environment, "gold answers", usable, low=1.0, high=1.0)]
    some = [one for group in _by_family(usable).values() for one in group[:SAMPLE]]
    bad: list[tuple[str, list[tuple[Task, str | None]]]] = [
        ("no answer", [(task, None) for task, _ in some]),
        ("empty answers", [(task, "") for task, _ in some]),
        ("nonsense", [(task, f"\u2205 nonsense {i}") for i, (task, _) in enumerate(some)]),
        ("every guess at once", _shotgun(some)),
    ]
    sheets += [await _judge(environment, name, rows, low=0.0, high=0.0) for name, rows in bad if rows]
    sheets += [await _judge_constant(environment, constant, some) for constant in CONSTANTS]
    swapped = _swapped(some)
    if swapped:
        sheets.append(await _judge(environment, "swapped between tasks", swapped, low=0.0, high=SWAPPED_LIMIT))
    if not all(sheet.passed for sheet in sheets):
        raise EnvironmentFailure(
            f"the evaluator failed its self-test: {'; '.join(map(_figures, sheets))}. No score of it can be believed: "
            "mend the environment's checker or its gold answers."
        )
    return SelfTest(sheets=tuple(sheets), untested=len(tasks) - len(usable))


async def _judge(
    environment: Checks, name: str, rows: Sequence[tuple[Task, str | None]], *, low: float, high: float
) -> Sheet:
    scores = [(await environment.check(task, answer)).score for task, answer in rows]
    accuracy = sum(map(solved, scores)) / len(scores)
    expected = f"exactly {low:.0%}" if low == high else f"at most {high:.0%}"
    return _sheet(name, scores, expected, passed=low <= accuracy <= high)


async def _judge_constant(environment: Checks, constant: str, usable: Sequence[tuple[Task, str]]) -> Sheet:
    scores = [(await environment.check(task, constant)).score for task, _ in usable]
    sizes = Counter(task.family for task, _ in usable)
    lucky = Counter(
        task.family
        for (task, gold), score in zip(usable, scores, strict=True)
        if solved(score) and not _same(gold, constant)
    )
    over = [family for family, n in lucky.items() if n > max(1, LUCK_LIMIT * sizes[family])]
    expected = f"beside the gold answer at most {LUCK_LIMIT:.0%} of a family"
    found = "".join(f", found {lucky[family]} of {sizes[family]} of {family}" for family in over)
    return _sheet(f"always {constant}", scores, expected + found, passed=not over)


def _sheet(name: str, scores: Sequence[Score], expected: str, *, passed: bool) -> Sheet:
    unjudged = scores.count(None)
    return Sheet(
        name=name,
        n=len(scores),
        accuracy=sum(map(solved, scores)) / len(scores),
        unjudged=unjudged,
        expected=expected,
        passed=passed and not unjudged,
    )


def _figures(sheet: Sheet) -> str:
    silent = f", {sheet.unjudged} without a verdict" if sheet.unjudged else ""
    wrong = "" if sheet.passed else " (WRONG)"
    return f"{sheet.name}: {sheet.accuracy:.0%} of {sheet.n} right{silent}, expected {sheet.expected}{wrong}"


def _same(gold: str, constant: str) -> bool:
    """Whether a gold answer is this constant, perhaps written in another way."""
    if gold.strip().casefold() == constant.casefold():
        return True
    try:
        return float(gold) == float(constant)
    except ValueError:
        return False


def _by_family(usable: Sequence[tuple[Task, str]]) -> dict[str, list[tuple[Task, str]]]:
    groups: dict[str, list[tuple[Task, str]]] = defaultdict(list)
    for task, answer in usable:
        groups[task.family].append((task, answer))
    return groups


def _shotgun(usable: Sequence[tuple[Task, str]]) -> list[tuple[Task, str | None]]:
    """Every task of a family gets all its gold answers; families with one distinct answer are left out."""
    rows: list[tuple[Task, str | None]] = []
    for group in _by_family(usable).values():
        golds = sorted({answer.strip() for _, answer in group})
        if len(golds) > 1:
            rows += [(task, "\n".join(golds)) for task, _ in group]
    return rows


def _swapped(usable: Sequence[tuple[Task, str]]) -> list[tuple[Task, str | None]]:
    """Every task gets the next different gold answer of its family, in alphabetical order."""
    rows: list[tuple[Task, str | None]] = []
    for group in _by_family(usable).values():
        golds = sorted({answer.strip() for _, answer in group})
        if len(golds) > 1:
            rows += [(task, golds[(golds.index(answer.strip()) + 1) % len(golds)]) for task, answer in group]
    return rows
