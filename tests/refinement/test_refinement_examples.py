"""Self-debug on real programs in the sandbox: what a task shows is run, what it hides is not looked at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.refinement.kit import Model, in_turn, work

from autotelic.core.words import Task
from autotelic.environments import open_environment
from autotelic.environments.code import CodeEnvironment
from autotelic.refinement import Answer, answer_task, self_debug

GOOD = "def f(n):\n    return n * 2 + 1"
SHOWN_ONLY = "def f(n):\n    return {1: 3, 2: 5, 5: 11}.get(n, 0)"
HALF = "def f(n):\n    return n + 2 if n < 2 else 5"
BROKEN = "def f(n):\n    return n / 0"


def task(family: str) -> Task:
    inputs = ["1", "2", "5", "7", "9", "10"]
    keys: dict[str, dict[str, Any]] = {
        "induction": {"program": GOOD, "inputs": inputs, "outputs": [str(2 * int(i) + 1) for i in inputs], "given": 3},
        "abduction": {"program": GOOD, "output": "11"},
        "deduction": {"program": GOOD, "input": "5", "output": "11"},
    }
    return Task.make(environment="code", family=family, question="f(1) returns 3", key=keys[family], answer="")


@pytest.fixture
async def code() -> AsyncIterator[CodeEnvironment]:
    async with open_environment({"name": "code"}) as environment:
        assert isinstance(environment, CodeEnvironment)
        yield environment


async def answered(code: CodeEnvironment, family: str, *texts: str) -> tuple[Answer, Model]:
    model, asked = Model(in_turn(*texts)), task(family)
    return await answer_task(self_debug(), work(model, task=asked, form=code)), model


async def test_a_program_is_mended_by_what_its_examples_say(code: CodeEnvironment) -> None:
    answer, model = await answered(code, "induction", BROKEN, HALF, GOOD)
    assert answer.text == GOOD and [d.score for d in answer.draft.of] == [0.0, pytest.approx(2 / 3), 1.0]
    first, second = (messages[-1].content for messages, _ in model.asked[1:])
    assert "f(1) fails: ZeroDivisionError" in first and "f(5) returns 5, not 11" in second
    hidden = json.dumps([[m.content for m in messages] for messages, _ in model.asked])
    assert "f(7)" not in hidden and "f(9)" not in hidden


async def test_a_worse_revision_is_not_kept_and_what_passes_is_left_alone(code: CodeEnvironment) -> None:
    answer, _ = await answered(code, "induction", HALF, BROKEN, "no program")
    assert answer.text == HALF and answer.draft.first is not None
    passing, model = await answered(code, "induction", SHOWN_ONLY, GOOD)
    assert passing.text == SHOWN_ONLY and len(model.asked) == 1, "hidden examples play no part"


async def test_arguments_are_tried_and_a_question_is_not_its_own_example(code: CodeEnvironment) -> None:
    answer, model = await answered(code, "abduction", "4", "((", "5")
    assert answer.text == "5" and "f(4) returns 9, not 11" in model.asked[1][0][-1].content
    assert "f(4) returns 9" in model.asked[2][0][-1].content, "the better draft is the one that is mended"
    asked, model = await answered(code, "deduction", "10", "11")
    assert asked.text == "10" and len(model.asked) == 1
