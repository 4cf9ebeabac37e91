"""Strategies within strategies: what was revised and learned within is known outside, and asked for within too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.refinement.kit import Model, in_turn, judging, work

from autotelic.core.errors import UsageError
from autotelic.core.registry import register
from autotelic.core.words import Completion, Message
from autotelic.refinement import Answer, Budget, Strategy, answer_task, build_strategy, direct, fan_out
from autotelic.serving import Gateway, Refused, Sampling, ScriptedBackend
from autotelic.tools import Toolbox, tool
from autotelic.ui.names import read_name


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


async def answered(strategy: str, model: Model, budget: Budget | None = None, **rest: Any) -> Answer:
    return await answer_task(build_strategy(strategy), work(model, budget, **rest))


@pytest.mark.parametrize("outer", ["best_of({}, n=1, by='critic')", "self_consistency({}, n=1)", "universal({}, n=1)"])
async def test_a_flip_within_is_a_flip(outer: str) -> None:
    model = Model(judging(lambda answer: answer == "6", in_turn("4", "6")))
    answer = await answered(outer.format("self_refine"), model)
    assert answer.text == "6" and answer.draft.begun.answer == "4"


async def test_of_two_revisions_the_first_draft_is_the_first() -> None:
    model = Model(judging(lambda answer: answer == "6", in_turn("4", "6")))
    answer = await answered("reflexion(self_refine)", model)
    assert answer.text == "6" and answer.draft.begun.answer == "4"


async def test_what_was_learned_within_is_learned() -> None:
    model = Model(judging(lambda answer: answer == "6", in_turn("4", "Try larger numbers.", "6")))
    answer = await answered("self_consistency(reflexion, n=1)", model)
    assert answer.text == "6" and answer.draft.learned == ("Try larger numbers.",)


async def test_a_merged_answer_is_a_revision_and_one_that_cannot_be_read_is_none() -> None:
    merged = await answered("mixture(n=2)", Model(in_turn("4", "4", "6")))
    assert merged.text == "6" and merged.draft.begun.answer == "4"
    unread = await answered("mixture(n=2)", Model(lambda asked, _: "" if "Several people" in asked else "4"))
    assert unread.text == "4" and [draft.answer for draft in unread.draft.of] == ["4", "4", "4", None]


async def test_what_is_weighed_when_a_budget_ends_does_not_overrule_the_vote() -> None:
    model = Model(judging(lambda _: False, in_turn("4", "6", "6", "6")))
    answer = await answered("self_consistency(n=4, batch=4, weigh='critic')", model, Budget(calls=3))
    assert answer.stopped == "calls" and answer.text == "6"


async def test_the_certainty_that_is_wished_for_outside_is_asked_for_within() -> None:
    model = Model(in_turn("4", "6"))
    answer = await answered("best_of(self_consistency(n=2, batch=2), n=2)", model)
    assert all(sampling.alternatives for _, sampling in model.asked)
    assert [draft.score for draft in answer.draft.of] != [None, None]


@pytest.mark.parametrize("strategy", ["best_of(by='checker')", "reflexion(by='checker')", "monte_carlo(by='checker')"])
async def test_a_checker_that_may_not_be_used_is_refused_before_anything_is_asked(strategy: str) -> None:
    model = Model(in_turn("4"))
    with pytest.raises(UsageError, match="checker"):
        await answered(strategy, model)
    assert not model.asked


class Picky(Model):
    """Knows no schema of a tool's arguments."""

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        if sampling.schema and "number" in str(sampling.schema):
            self.asked.append((list(messages), sampling))
            raise Refused("no such schema")
        return await super().complete(messages, sampling, policy)


async def test_a_refusal_that_was_asked_around_stops_nothing() -> None:
    model = Picky(in_turn('{"answer": "4"}'))
    answer = await answered("tool_loop", model, toolbox=Toolbox([double]))
    assert answer.text == "4" and not answer.stopped and [step.failure != "" for step in answer.steps] == [True, False]


async def test_a_budget_of_seconds_bounds_tools_too() -> None:
    ended = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait for ever."""
        await ended.wait()
        return "done"

    model = Model(in_turn('{"calls": [{"tool": "wait", "arguments": {}}]}'))
    answer = await answered("tool_loop", model, Budget(seconds=0.2), toolbox=Toolbox([wait]))
    assert answer.stopped == "seconds" and answer.text is None


class Single(ScriptedBackend):
    """Gives one answer a request, as some providers do."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []
        super().__init__(lambda _m, _s: [])

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        self.seeds.append(sampling.seed)
        return [Completion(text="4", finish_reason="stop", prompt_tokens=10, completion_tokens=1, policy=policy)]


async def test_a_model_that_gives_one_answer_a_request_is_asked_and_counted_for_each() -> None:
    model = Single()
    found = await Gateway(model).complete([Message(role="user", content="?")], Sampling(n=5, seed=1))
    assert len(found) == 5 and len(set(model.seeds)) == 5
    model = Single()
    bounded = await answered("best_of(n=8)", model, Budget(calls=2))  # type: ignore[arg-type]
    assert len(model.seeds) == 2 == bounded.price.calls and bounded.price.prompt_tokens == 20
    assert bounded.stopped == "calls" and bounded.text == "4"


@pytest.mark.parametrize(
    "wrong",
    [
        "debate(speakers='1000')",
        "best_of(n=1e3)",
        "self_consistency(confidence=0)",
        "self_consistency(heat=1e999)",
        "contrastive(strength=1e999)",
        "guided(choices=())",
        "least_to_most(most=17)",
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="cannot be built"):
        build_strategy(wrong)


def test_what_goes_side_by_side_is_multiplied_and_what_goes_in_turn_is_not() -> None:
    assert fan_out("tree_of_thoughts(width=30, beam=20, depth=50)") == 600
    assert fan_out("reflexion(self_consistency(n=40), tries=900)") == 40
    assert fan_out("debate(mixture(n=5), speakers=7, rounds=300)") == 35
    with pytest.raises(UsageError, match="at once"):
        read_name("champion:tree_of_thoughts(width=500,beam=500)")


def test_what_a_plugin_does_not_mark_is_bounded_by_its_largest_number() -> None:
    @register("strategy", "mine")
    def mine(inner: Any = None, *, n: int = 4, max_tokens: int = 512, tries: int = -8) -> Strategy:
        return direct()

    assert fan_out("mine") == 512
    assert fan_out("mine(n=0, max_tokens=-1, tries=0)") == 1
    assert fan_out("debate(mine(max_tokens=600), speakers=2)") == 1200
