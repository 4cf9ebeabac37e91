from __future__ import annotations

from collections.abc import Callable

import pytest

from autotelic.core.errors import EnvironmentFailure
from autotelic.core.words import Task
from autotelic.environments import Checked, make_environment
from autotelic.evaluation import self_test

Rule = Callable[[str, str | None], float | None]


class Arithmetic:
    """Checks sums; `rule(gold, answer)` is the checker under test."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    async def check(self, task: Task, answer: str | None) -> Checked:
        assert task.answer is not None
        return Checked(score=self.rule(task.answer, answer))

    @staticmethod
    def tasks(n: int = 12) -> list[Task]:
        return asking(*(str(i + i * i) for i in range(1, n + 1)))


def asking(*golds: str, family: str = "add") -> list[Task]:
    return [
        Task.make(environment="sums", family=family, question=f"{family} {i}?", key={}, answer=gold)
        for i, gold in enumerate(golds)
    ]


def right(gold: str, answer: str | None) -> float:
    return float(answer == gold)


async def test_a_right_checker_passes_with_every_sheet() -> None:
    found = await self_test(Arithmetic(right), Arithmetic.tasks())
    assert [(s.name, s.accuracy) for s in found.sheets] == [
        ("gold answers", 1.0),
        ("no answer", 0.0),
        ("empty answers", 0.0),
        ("nonsense", 0.0),
        ("every guess at once", 0.0),
        ("always nan", 0.0),
        ("always 0", 0.0),
        ("always 1", 0.0),
        ("always []", 0.0),
        ("always True", 0.0),
        ("swapped between tasks", 0.0),
    ]


async def test_gold_answers_are_judged_on_all_tasks_and_wrong_ones_on_a_sample() -> None:
    tasks = [*Arithmetic.tasks(100), *asking("3", "4", "5", family="sub")]
    sizes = {sheet.name: sheet.n for sheet in (await self_test(Arithmetic(right), tasks)).sheets}
    assert sizes.pop("gold answers") == 103
    assert set(sizes.values()) == {33}, "30 of each family"


BROKEN: dict[str, tuple[Rule, str]] = {
    "always true": (lambda gold, answer: 1.0, "nonsense: 100%"),
    "always false": (lambda gold, answer: 0.0, "gold answers: 0%"),
    "gold and answer swapped in a substring test": (lambda gold, answer: float((answer or "") in gold), "empty"),
    "takes whoever lists every guess": (lambda gold, answer: float(gold in (answer or "")), "every guess"),
    "looks at the form only": (lambda gold, answer: float((answer or "").isdigit()), "swapped between tasks: 100%"),
    "never a verdict": (lambda gold, answer: None, "gold answers: 0%"),
    "partial credit for the right answer": (lambda gold, answer: 0.9 * right(gold, answer), "gold answers: 0%"),
    "nothing is as near as can be": (
        lambda gold, answer: float(answer in (gold, "nan")),
        "always nan: 100% of 12 right, expected beside the gold answer at most 25% of a family, found 12 of 12 of add",
    ),
    "the beginning is enough": (
        lambda gold, answer: float(bool(answer) and gold.startswith(str(answer))),
        "always 1: 33%",
    ),
    "no verdict on what it cannot read": (
        lambda gold, answer: right(gold, answer) if (answer or "").isdigit() else None,
        "nonsense: 0% of 12 right, 12 without a verdict, expected exactly 0%",
    ),
    "no verdict on a constant": (
        lambda gold, answer: None if answer == "[]" else right(gold, answer),
        "always []: 0% of 12 right, 12 without a verdict",
    ),
    "a missing answer is right": (lambda gold, answer: float(answer in (gold, None)), "no answer: 100%"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_checker_is_caught_with_figures(name: str) -> None:
    rule, said = BROKEN[name]
    with pytest.raises(EnvironmentFailure, match="failed its self-test") as caught:
        await self_test(Arithmetic(rule), Arithmetic.tasks())
    wrong = [part for part in str(caught.value).split("; ") if "(WRONG)" in part]
    assert any(said in part for part in wrong), str(caught.value)


async def test_a_constant_may_be_right_as_often_as_it_is_the_gold_answer_and_now_and_then_by_luck() -> None:
    def by_value(gold: str, answer: str | None) -> float:
        return float(answer == gold or ((answer or "").isdigit() and float(gold) == float(answer or "")))

    golds = ["0", "1"] * 5 + ["1.0", "2"]
    found = await self_test(Arithmetic(by_value), asking(*golds))
    assert {s.name: s.accuracy for s in found.sheets}["always 1"] == 0.5
    lucky = Arithmetic(lambda gold, answer: float(answer == gold or (gold, answer) == ("7", "True")))
    assert await self_test(lucky, asking("7", "8"))


async def test_one_family_that_takes_a_constant_is_found_among_many() -> None:
    tasks = [t for family in "abcdefgh" for t in asking("3", "4", "5", family=family)]

    class OneBad(Arithmetic):
        async def check(self, task: Task, answer: str | None) -> Checked:
            return Checked(score=1.0 if task.family == "c" and answer == "0" else right(str(task.answer), answer))

    with pytest.raises(EnvironmentFailure, match=r"always 0: 12% of 24 right, .*, found 3 of 3 of c \(WRONG\)"):
        await self_test(OneBad(right), tasks)


async def test_the_gyms_families_pass() -> None:
    families = ["gcd", "complex_arithmetic", "prime_factorization", "boxnet", "game_of_life", "binary_matrix"]
    gym = make_environment({"name": "reasoning_gym", "families": families})
    found = await self_test(gym, gym.tasks(5 * len(families), seed=3))
    assert found.untested == 5, "boxnet has no gold answers"
    assert not any(sheet.unjudged for sheet in found.sheets)


async def test_wrong_gold_answers_are_caught() -> None:
    tasks = Arithmetic.tasks()
    truth = {t.question: str(t.answer) for t in tasks}

    class Sums(Arithmetic):
        async def check(self, task: Task, answer: str | None) -> Checked:
            return Checked(score=right(truth[task.question], answer))

    shifted = [t.model_copy(update={"answer": tasks[i - 1].answer}) for i, t in enumerate(tasks)]
    with pytest.raises(EnvironmentFailure, match="gold answers: 0% of 12 right"):
        await self_test(Sums(right), shifted)


async def test_tasks_without_gold_are_counted_and_nothing_but_them_is_an_error() -> None:
    bare = Arithmetic.tasks(2)[0].model_copy(update={"answer": None})
    found = await self_test(Arithmetic(right), [*Arithmetic.tasks(), bare])
    assert found.untested == 1
    with pytest.raises(EnvironmentFailure, match="none of 1 tasks has a gold answer"):
        await self_test(Arithmetic(right), [bare])
