"""The tool loop with a scripted model: both dialects, every bound, what the model is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from autotelic.agents import Bounds, ToolLoop
from autotelic.core.words import Completion, Message, ToolCall
from autotelic.serving import Gateway, Sampling, ScriptedBackend, TooLong
from autotelic.tools import Toolbox, tool

QUESTION = [Message(role="user", content="What is 2 + 3, and 4 + 5?")]


@tool
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


@tool(permission="network")
def send(text: str) -> str:
    """Send a text."""
    raise AssertionError("must not be called")


def calling(*calls: dict[str, Any]) -> str:
    return json.dumps({"calls": [{"tool": "add", "arguments": call} for call in calls]}, separators=(",", ":"))


class Scripted:
    """A model that says what it is told to, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.asked: list[tuple[list[Message], Sampling]] = []
        self._texts = list(texts)

    def loop(self, **bounds: Any) -> ToolLoop:
        return ToolLoop(Gateway(ScriptedBackend(self._say)), Toolbox([add, send]), Bounds(**bounds))

    def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
        self.asked.append((list(messages), sampling))
        return [self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]]

    def takes(self, turn: int) -> Callable[[Any], bool]:
        schema = self.asked[turn][1].schema
        assert schema is not None
        return Draft202012Validator(schema).is_valid


async def test_calls_run_side_by_side_and_what_came_of_them_is_said() -> None:
    model = Scripted(calling({"left": 2, "right": 3}, {"left": 4, "right": 5}), '{"answer":"5 and 9"}')
    talk = await model.loop().answer(QUESTION, Sampling(temperature=0.0))
    assert (talk.answer, talk.reason) == ("5 and 9", "ok")
    assert [(r.call.name, r.result.content) for r in talk.calls] == [("add", "5"), ("add", "9")]
    assert [(m.role, m.content) for m in talk.messages[1:]] == [
        ("assistant", calling({"left": 2, "right": 3}, {"left": 4, "right": 5})),
        ("tool", "5"),
        ("tool", "9"),
        ("assistant", '{"answer":"5 and 9"}'),
    ]
    assert [t["function"]["name"] for t in model.asked[0][1].tools] == ["add"], "what is not allowed is not offered"


async def test_the_schema_holds_every_turn_to_its_form() -> None:
    model = Scripted(calling({"left": 2, "right": 3}), '{"answer":"5"}')
    await model.loop(calls=3, parallel=2, call_first=True).answer(QUESTION, Sampling())
    first, second = model.takes(0), model.takes(1)
    one = {"tool": "add", "arguments": {"left": 1, "right": 2}}
    assert first({"calls": [one]}) and not first({"answer": "5"}), "first a call"
    assert second({"calls": [one]}) and second({"answer": "5"})
    assert second({"calls": [one, one]}) and not second({"calls": [one, one, one]})
    wrongs: tuple[dict[str, Any], ...] = (
        {"calls": []},
        {"calls": [{"tool": "send", "arguments": {"text": "x"}}]},
        {"calls": [{"tool": "add", "arguments": {"left": "1", "right": 2}}]},
        {"calls": [one], "answer": "5"},
    )
    assert not any(map(second, wrongs))


class Place(BaseModel):
    """Where."""

    city: str
    kind: Literal["home", "work"] = "home"


@tool
def weather(place: Place, days: list[Place]) -> str:
    """Tell the weather."""
    return f"{place.city} {len(days)}"


async def test_the_parts_of_a_tools_schema_keep_their_meaning_in_the_turns() -> None:
    call = {"tool": "weather", "arguments": {"place": {"city": "Ulm"}, "days": [{"city": "Rome", "kind": "work"}]}}
    texts = [json.dumps({"calls": [call]}), '{"answer":"rain"}']
    asked: list[Sampling] = []

    def say(_: Sequence[Message], sampling: Sampling) -> list[str]:
        asked.append(sampling)
        return [texts.pop(0)]

    loop = ToolLoop(Gateway(ScriptedBackend(say)), Toolbox([add, weather]))
    talk = await loop.answer(QUESTION, Sampling())
    assert talk.calls[0].result.content == "Ulm 1"
    assert asked[0].schema is not None
    fits = Draft202012Validator(asked[0].schema).is_valid
    assert fits({"calls": [call]})
    for arguments in ({"place": {"city": 1}, "days": []}, {"place": {"city": "Ulm", "kind": "x"}, "days": []}):
        assert not fits({"calls": [{"tool": "weather", "arguments": arguments}]})


async def test_when_the_calls_are_spent_only_an_answer_fits() -> None:
    model = Scripted(calling({"left": 1, "right": 1}), calling({"left": 1, "right": 2}), '{"answer":"x"}')
    talk = await model.loop(calls=2).answer(QUESTION, Sampling())
    assert talk.reason == "ok" and len(talk.calls) == 2
    assert model.takes(2)({"answer": "x"}) and not model.takes(2)({"calls": [{"tool": "add", "arguments": {}}]})


async def test_a_model_that_never_answers_is_ended() -> None:
    model = Scripted(calling({"left": 1, "right": 1}))
    talk = await model.loop(calls=100, turns=5, repeats=2).answer(QUESTION, Sampling())
    assert (talk.answer, talk.reason, len(talk.turns)) == (None, "no_answer", 5)
    assert [r.result.reason for r in talk.calls] == ["ok", "ok", "refused", "refused", "refused"]
    assert talk.calls[-1].result.content == "add was called so before, and gave: 2"


@pytest.mark.parametrize(
    "text",
    ["", "five", "[]", "null", '{"calls":[]}', '{"calls":[{"tool":"add"}]}', '{"calls":7}', '{"answer":5}',
     '{"answer":"a","answer":"b"}', '{"calls":[{"tool":"add","arguments":{"left":1,"left":2}}]}', "[" * 100_000],
)  # fmt: skip
async def test_what_is_neither_a_call_nor_an_answer_is_said_to_the_model(text: str) -> None:
    model = Scripted(text, '{"answer":"5"}')
    talk = await model.loop().answer(QUESTION, Sampling())
    assert talk.answer == "5" and not talk.calls
    assert talk.messages[2].role == "user" and "neither a call nor an answer" in talk.messages[2].content


async def test_bad_arguments_unknown_and_refused_tools_are_results_the_model_can_act_on() -> None:
    calls = [
        {"tool": "add", "arguments": {"left": "2"}},
        {"tool": "fly", "arguments": {}},
        {"tool": "send", "arguments": {"text": "x"}},
    ]
    model = Scripted(json.dumps({"calls": calls}), '{"answer":"-"}')
    talk = await model.loop().answer(QUESTION, Sampling())
    assert [r.result.reason for r in talk.calls] == ["bad_arguments", "unknown", "refused"]
    assert "'right' is a required property" in talk.messages[2].content


async def test_a_turn_that_was_cut_off_ends_the_answer() -> None:
    class Cut(ScriptedBackend):
        async def complete(self, *args: Any) -> list[Completion]:
            return [c.model_copy(update={"finish_reason": "length"}) for c in await super().complete(*args)]

    loop = ToolLoop(Gateway(Cut(lambda _m, _s: ['{"answer":"half'])), Toolbox([add]))
    talk = await loop.answer(QUESTION, Sampling())
    assert (talk.answer, talk.reason, len(talk.turns)) == (None, "truncated", 1)


@pytest.mark.parametrize(("turns", "made"), [(0, 0), (1, 1)])
async def test_a_conversation_that_outgrows_the_model_ends(turns: int, made: int) -> None:
    class Small(ScriptedBackend):
        async def complete(self, messages: Sequence[Message], *args: Any) -> list[Completion]:
            if len(messages) > 2 * turns:
                raise TooLong("no room")
            return await super().complete(messages, *args)

    loop = ToolLoop(Gateway(Small(lambda _m, _s: [calling({"left": 2, "right": 3})])), Toolbox([add]))
    talk = await loop.answer(QUESTION, Sampling())
    assert (talk.answer, talk.reason, len(talk.turns), len(talk.calls)) == (None, "too_long", 1, made)


async def test_a_model_that_gives_calls_apart_gets_results_by_their_ids() -> None:
    said = [
        Completion(
            text="",
            finish_reason="tool_calls",
            calls=(
                ToolCall(id="c1", name="add", arguments='{"left": 2, "right": 3}'),
                ToolCall(id="c2", name="add", arguments='{"left": 2'),
            ),
        ),
        Completion(text="It is 5.", finish_reason="stop"),
    ]
    asked: list[tuple[list[Message], Sampling]] = []

    class Provider:
        calls_apart = True

        async def complete(self, messages: Sequence[Message], sampling: Sampling, _: int | None) -> list[Completion]:
            await asyncio.sleep(0)
            asked.append((list(messages), sampling))
            return [said.pop(0)]

        async def aclose(self) -> None: ...

    talk = await ToolLoop(Gateway(Provider()), Toolbox([add])).answer(QUESTION, Sampling())
    assert (talk.answer, talk.reason) == ("It is 5.", "ok")
    assert asked[0][1].schema is None and asked[0][1].tools
    sent = [message.openai() for message in asked[1][0]]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["c1", "c2"]
    assert [(m["role"], m["tool_call_id"], m["content"][:22]) for m in sent[2:]] == [
        ("tool", "c1", "5"),
        ("tool", "c2", "the arguments are not "),
    ]
