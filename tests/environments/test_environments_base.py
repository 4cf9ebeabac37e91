"""What every environment shares, and how little a plug-in needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotelic.core.errors import UsageError
from autotelic.core.registry import available, register
from autotelic.core.words import Message, Proposal, Rejection, Task
from autotelic.environments import Checked, Environment, make_environment, plain_answer, solved
from autotelic.environments.base import shares


@register("environment", "echo")
class Echo:
    """Asks for a word to be repeated: the smallest whole environment."""

    name = "echo"
    sandbox: str | None = None

    def __init__(self, config: Mapping[str, Any], *, sandbox: str = "auto") -> None:
        self.words = list(config.get("words", ["tea", "sun", "oak"]))
        self.families = ["echo"]

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    def tasks(self, n: int, seed: int, difficulty: int | None = None) -> list[Task]:
        return [self._task(word) for word in Random(seed).sample(self.words, n)]

    def tools(self, task: Task) -> list[Any]:
        return []

    def system_prompt(self, task: Task) -> str:
        return "Repeat the word."

    def parse(self, task: Task, text: str) -> str | None:
        return plain_answer(text)

    async def check(self, task: Task, answer: str | None) -> Checked:
        return Checked.of(float(answer == task.answer))

    def proposal_prompt(self, rng: Random, demonstrations: int = 3) -> list[Message]:
        return [Message(role="user", content="Write a word.")]

    def proposal_schema(self) -> dict[str, Any]:
        return {"type": "string"}

    def proposal_text(self, task: Task) -> str:
        return json.dumps(task.answer)

    async def validate(self, proposal: Proposal) -> Task | Rejection:
        word = json.loads(proposal.text)
        return self._task(word) if word.isalpha() else Rejection(reason="not_a_word")

    def _task(self, word: str) -> Task:
        return Task.make(environment="echo", family="echo", question=word, key={}, answer=word)


async def test_a_decorated_class_is_an_environment_like_any_other() -> None:
    assert "echo" in available("environment")
    environment = make_environment({"name": "echo", "words": ["fig", "ash"]})
    assert isinstance(environment, Environment)
    tasks = environment.tasks(2, seed=0)
    assert sorted(t.question for t in tasks) == ["ash", "fig"]
    answer = environment.parse(tasks[0], f"Answer: {tasks[0].question}.")
    assert solved((await environment.check(tasks[0], answer)).score)


@pytest.mark.parametrize("config", [{}, {"name": 3}, {"name": "no_such"}])
def test_a_config_without_a_known_name_is_the_users_to_mend(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"environment\.name|no environment is called 'no_such'. There are: .*echo"):
        make_environment(config)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 12 \n", "12"),
        ("12.", "12"),
        ("-3.5", "-3.5"),
        ('"tac"', "tac"),
        ("'tac'.", "tac"),
        ("Answer: 12", "12"),
        ("**Answer:** 12", "12"),
        ("The answer is **12**.", "12"),
        ("6 * 2 is 12.\nFinal answer: 12", "12"),
        ("```\nABCD\n```", "ABCD"),
        ("```text\n1 2\n3 4\n```", "1 2\n3 4"),
        ("\\boxed{12}", "12"),
        ("<answer>Monday</answer>", "Monday"),
        ("'a' and 'b'", "'a' and 'b'"),
        ("['1', '2']", "['1', '2']"),
        ("5 days, 03:20", "5 days, 03:20"),
        ("Answer: 1\nAnswer: 2", "2"),
        ("", None),
        ('""', '""'),
        ("Answer:", None),
    ],
)
def test_wrapping_comes_off(text: str, answer: str | None) -> None:
    assert plain_answer(text) == answer


def test_quotation_marks_stay_where_they_mean_something() -> None:
    assert plain_answer("Answer: 'tac'", quotes=False) == "'tac'"


def test_several_guesses_stay_several() -> None:
    guesses = "\n".join(str(i) for i in range(10))
    assert plain_answer(guesses) == guesses


@given(st.text(max_size=60))
def test_plain_answer_is_total_and_settles(text: str) -> None:
    once = plain_answer(text)
    assert once is None or once == once.strip() != ""


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_score_outside_its_range_is_no_verdict(score: float) -> None:
    checked = Checked.of(score)
    if 0 <= score <= 1:
        assert checked.score == score and (checked.reason == "ok") == (score == 1.0) == solved(checked.score)
    else:
        assert checked.score is None and checked.reason == "checker_failed"


def test_only_full_marks_are_solved() -> None:
    assert solved(1.0) and not solved(0.999999) and not solved(None)


@given(st.integers(0, 500), st.integers(1, 12), st.integers())
def test_shares_are_even_and_complete(n: int, k: int, seed: int) -> None:
    parts = shares(n, [f"f{i}" for i in range(k)], Random(seed)).values()
    assert sum(parts) == n and max(parts) - min(parts) <= 1
