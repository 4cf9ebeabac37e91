"""Tools picked by the task: which, in what order, and that a loop and a solver offer no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from autotelic.agents import Bounds, Solver, ToolLoop, ToolPicker, pick_tools
from autotelic.core.words import Message
from autotelic.environments import make_environment
from autotelic.memory.embedder import Vectors
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.tools import Tool, Toolbox

TOPICS = (("letter", "letters", "vowels", "spell"), ("divisor", "gcd", "factor"), ("date", "calendar", "weekday"))


class Topics:
    """An embedder that knows what a text is about by a few words of each topic."""

    name, dimension = "topics", len(TOPICS) + 1

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def embed(self, texts: list[str]) -> Vectors:
        self.asked += texts
        rows = [[0.1, *(sum(text.lower().count(word) for word in topic) for topic in TOPICS)] for text in texts]
        vectors = np.asarray(rows, dtype=np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)

    async def aclose(self) -> None: ...


def tool(name: str, description: str) -> Tool:
    async def call(_: dict[str, Any]) -> str:
        return name

    return Tool(name, description, {"type": "object", "properties": {}}, call, permission="pure")


TOOLS = [
    tool("count_vowels", "Count the vowels of a text."),
    tool("gcd", "Find the greatest common divisor of numbers."),
    tool("weekday", "Tell the day of the week of a date."),
    tool("count_letter", "Count how often a letter occurs in a text."),
    tool("factor", "Find the prime factors of a number."),
]


async def picked(question: str, k: int, tools: Sequence[Tool] = TOOLS, **given: Any) -> list[str]:
    return [one.name for one in await pick_tools(question, tools, k, Topics(), **given)]


async def test_the_tools_that_fit_the_question_are_picked_in_their_own_order() -> None:
    assert await picked("What is the gcd of 12 and 18?", 1) == ["gcd"]
    assert await picked("Which weekday is the date 2024-02-29?", 1) == ["weekday"]
    assert await picked("How often does the letter e occur in 'tree'?", 2) == ["count_vowels", "count_letter"]
    assert await picked("A divisor of 12?", 2) == ["gcd", "factor"]


async def test_words_tell_apart_what_means_the_same() -> None:
    question = "How often does the letter e occur in 'tree'?"
    assert await picked(question, 1) == ["count_letter"], "both are about letters"
    assert await picked("Which vowels are there?", 1) == ["count_vowels"]


async def test_all_are_offered_where_there_are_not_more_or_nothing_is_asked() -> None:
    names = [one.name for one in TOOLS]
    embedder = Topics()
    for k in (0, 5, 9):
        assert [one.name for one in await pick_tools("x", TOOLS, k, embedder)] == names
    assert not embedder.asked


async def test_pinned_tools_are_always_in() -> None:
    gcd = "What is the gcd of 12 and 18?"
    assert await picked(gcd, 2, pinned=["weekday"]) == ["gcd", "weekday"]
    assert await picked(gcd, 1, pinned=["weekday", "factor"]) == ["weekday", "factor"]
    assert await picked(gcd, 1, pinned=["no such tool"]) == ["gcd"]


@given(st.permutations(TOOLS), st.text(max_size=40), st.integers(1, 5))
@settings(max_examples=50)
async def test_the_order_of_the_tools_decides_nothing(tools: list[Tool], question: str, k: int) -> None:
    chosen = await picked(question, k, tools)
    assert len(chosen) == k and set(chosen) == set(await picked(question, k))


async def test_a_loop_offers_a_question_only_what_is_picked_for_it() -> None:
    asked: list[Sampling] = []

    def say(_: Sequence[Message], sampling: Sampling) -> list[str]:
        asked.append(sampling)
        return ['{"answer":"6"}']

    environment = make_environment({"name": "reasoning_gym", "families": ["gcd", "letter_counting"]})
    loop = ToolLoop(Gateway(ScriptedBackend(say)), Toolbox(TOOLS), Bounds(), ToolPicker(Topics(), 2, ["weekday"]))
    solver = Solver(Gateway(ScriptedBackend(say)), environment, loop)
    tasks = {task.family: task for task in environment.tasks(2, seed=1)}
    assert "GCD" in tasks["gcd"].question and "letter" in tasks["letter_counting"].question
    for family, wanted, other in (("gcd", "gcd", "count_letter"), ("letter_counting", "count_letter", "gcd")):
        (attempt,) = await solver.attempt(tasks[family], solver.messages(tasks[family]), Sampling())
        offered = [one["function"]["name"] for one in attempt.tools]
        assert sorted(offered) == sorted([wanted, "weekday"]), "what training sees is what was offered"
        assert asked[-1].tools == attempt.tools and asked[-1].schema is not None
        fits = Draft202012Validator(asked[-1].schema).is_valid
        assert fits({"calls": [{"tool": wanted, "arguments": {}}]})
        assert not fits({"calls": [{"tool": other, "arguments": {}}]})
    assert len(loop.offered) == len(TOOLS), "the loop itself stays as it is"


async def test_without_a_picker_all_allowed_tools_are_offered() -> None:
    loop = ToolLoop(Gateway(ScriptedBackend(lambda _m, _s: [json.dumps({"answer": "x"})])), Toolbox(TOOLS))
    assert await loop.narrowed("What is the gcd of 12 and 18?") is loop
    assert [one["function"]["name"] for one in loop.offered] == [one.name for one in TOOLS]


@pytest.mark.parametrize("question", ["", "???", "zeppelin", "the of a in"])
async def test_a_question_that_fits_nothing_gets_as_many_tools(question: str) -> None:
    assert len(await picked(question, 3)) == 3
