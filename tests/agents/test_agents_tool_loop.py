"""The tool loop with a scripted model: both dialects, every bound, what the model is told."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from pydantic import BaseModel
from referencing import Registry

from autotelic.agents import Bounds, ToolLoop
from autotelic.core.dialect import turn_schema
from autotelic.core.words import Completion, Message, ToolCall
from autotelic.serving import Gateway, LiteLLMBackend, Refused, Sampling, ScriptedBackend, TooLong
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


ZOD = {
    "type": "object",
    "$schema": "http://json-schema.org/draft-07/schema#",
    "properties": {
        "home": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "lots": {"type": "array", "items": {"type": "integer"}}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "work": {"$ref": "#/properties/home"},
        "lots": {"$ref": "#/properties/home/properties/lots"},
        "lot": {"$ref": "#/properties/home/properties/lots/items"},
        "tree": {"$ref": "#/definitions/a%7E1tree"},
        "either": {"anyOf": [{"const": {"$ref": "#"}}, {"$ref": "#/properties/either/anyOf/0"}]},
        "definitions": {"type": "integer"},
        "again": {"$ref": "#"},
    },
    "required": ["work"],
    "additionalProperties": False,
    "definitions": {
        "a/tree": {
            "type": "object",
            "properties": {"leaves": {"type": "array", "items": {"$ref": "#/definitions/a~1tree"}}},
            "additionalProperties": False,
        }
    },
}


def test_a_schemas_references_hold_wherever_they_point() -> None:
    plain = {"type": "object", "properties": {"home": {"type": "integer"}}}
    schema = turn_schema({"zod": ZOD, "plain": plain, "zod2": ZOD}, 2, answer=False)
    Draft202012Validator.check_schema(schema)
    assert set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema))) - {"#"} == {
        f"#/$defs/{name}" for name in schema["$defs"]
    }
    turns, alone = Draft202012Validator(schema, registry=Registry()), Draft7Validator(ZOD, registry=Registry())
    home: dict[str, Any] = {"city": "Ulm"}
    for name in ("zod", "zod2"):
        for arguments in (
            {"work": home},
            {"work": home, "lots": [1], "lot": 2, "definitions": 3, "either": {"$ref": "#"}},
            {"work": home, "tree": {"leaves": [{"leaves": []}]}, "again": {"work": home, "again": {"work": home}}},
            {},
            {"work": {"city": 1}},
            {"work": home, "lots": ["1"]},
            {"work": home, "lot": "2"},
            {"work": home, "tree": {"leaves": [{"leaves": 7}]}},
            {"work": home, "again": {"work": home, "again": {"work": 7}}},
            {"work": home, "definitions": "3"},
            {"work": home, "either": {"$ref": "#/$defs/0"}},
        ):
            call = {"calls": [{"tool": name, "arguments": arguments}]}
            assert turns.is_valid(call) == alone.is_valid(arguments), arguments
    assert turns.is_valid({"calls": [{"tool": "plain", "arguments": {"home": 1}}]})


@pytest.mark.parametrize("at", ["#/nowhere", "#/properties/a/items/0", "#name", "http://127.0.0.1:9/x", "x.json", ""])
def test_a_reference_to_what_is_not_there_takes_anything(at: str) -> None:
    schema = turn_schema({"far": {"type": "object", "properties": {"a": {"$ref": at}}}}, 1, answer=False)
    fits = Draft202012Validator(schema, registry=Registry()).is_valid
    assert fits({"calls": [{"tool": "far", "arguments": {"a": [1]}}]})
    assert not fits({"calls": [{"tool": "far", "arguments": 1}]})


async def test_a_schema_that_the_server_refuses_is_left_to_the_check_of_the_arguments() -> None:
    texts = [calling({"left": "2"}), calling({"left": 2, "right": 3}), '{"answer":"5"}']
    refused: list[dict[str, Any]] = []

    def say(_: Sequence[Message], sampling: Sampling) -> list[str]:
        if "integer" in json.dumps(sampling.schema):
            assert sampling.schema is not None
            refused.append(sampling.schema)
            raise Refused("the schema is not supported")
        return [texts.pop(0)]

    loop = ToolLoop(Gateway(ScriptedBackend(say)), Toolbox([add]))
    talk = await loop.answer(QUESTION, Sampling())
    assert (talk.answer, [r.result.reason for r in talk.calls]) == ("5", ["bad_arguments", "ok"])
    assert len(refused) == 1, "it is not asked for again"


async def test_a_request_that_is_refused_for_something_else_is_an_error() -> None:
    def say(_: Sequence[Message], __: Sampling) -> list[str]:
        raise Refused("no such model")

    loop = ToolLoop(Gateway(ScriptedBackend(say)), Toolbox([add]))
    for _ in range(2):
        with pytest.raises(Refused, match="no such model"):
            await loop.answer(QUESTION, Sampling())


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


async def test_only_calls_that_were_run_count_as_repeats_and_those_of_one_turn_do() -> None:
    same, other = ({"tool": "add", "arguments": {"left": 1, "right": right}} for right in (1, 2))
    model = Scripted(json.dumps({"calls": [same, same, same, other]}), json.dumps({"calls": [other]}), '{"answer":"x"}')
    talk = await model.loop(calls=9, turns=5, parallel=3, repeats=2).answer(QUESTION, Sampling())
    assert [r.result.reason for r in talk.calls] == ["ok", "ok", "refused", "refused", "ok"]
    assert talk.calls[2].result.content == "add is called so already"


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


# -- a provider's model, through LiteLLM


class Provider(ThreadingHTTPServer):
    """An OpenAI-compatible server that calls `add` twice and then answers; it keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[dict[str, Any]] = []

    def said(self) -> dict[str, Any]:
        results = [m["content"] for m in self.asked[-1]["messages"] if m["role"] == "tool"]
        if results:
            return {"role": "assistant", "content": f"It is {' and '.join(results)}."}
        calls = [("a1", '{"left": 2, "right": 3}'), ("a2", r'{"left": 4, "right": "\ud800"}')]
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": id_, "type": "function", "function": {"name": "add", "arguments": arguments}}
                for id_, arguments in calls
            ],
        }


class Answering(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        said = self.server.said()
        reason = "tool_calls" if said.get("tool_calls") else "stop"
        head = {"id": "x", "created": 1, "model": asked["model"]}
        if not asked.get("stream"):
            choice = {"index": 0, "message": said, "finish_reason": reason}
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self._send("application/json", json.dumps(whole))
            return
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in re.findall(".{1,4}", said["content"] or "")]
        for index, call in enumerate(said.get("tool_calls", ())):
            text = call["function"]["arguments"]
            deltas.append({"tool_calls": [{**call, "index": index, "function": {"name": "add", "arguments": ""}}]})
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": text[at : at + 5]}}]}
                for at in range(0, len(text), 5)
            ]
        choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": reason})
        chunks = [json.dumps({**head, "object": "chat.completion.chunk", "choices": [choice]}) for choice in choices]
        self._send("text/event-stream", "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"]))

    def _send(self, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")  # about a type of LiteLLM's
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_providers_model_calls_tools_through_litellm(provider: Provider, streamed: bool) -> None:
    heard: list[str] = []
    backend = LiteLLMBackend("openai/any", base_url=f"http://127.0.0.1:{provider.server_port}/v1", api_key="none")
    loop = ToolLoop(Gateway(backend, attempts=1), Toolbox([add, send]))
    messages, sampling = list(QUESTION), Sampling()
    first = await loop.turn(messages, [], sampling, heard.append if streamed else None)
    assert [(c.id, c.name, json.loads(c.arguments)["left"]) for c in first.calls] == [
        ("a1", "add", 2),
        ("a2", "add", 4),
    ]
    records = await loop.act(first.calls, [])
    assert [(r.result.reason, r.message.call_id) for r in records] == [("ok", "a1"), ("bad_arguments", "a2")]
    messages += [*first.messages, *(record.message for record in records)]
    second = await loop.turn(messages, records, sampling, heard.append if streamed else None)
    assert second.answer is not None and second.answer.startswith("It is 5 and ") and not second.calls
    assert "".join(heard) == (second.answer if streamed else "")

    asked = provider.asked
    assert [bool(one.get("stream")) for one in asked] == [streamed, streamed]
    assert all([t["function"]["name"] for t in one["tools"]] == ["add"] for one in asked)
    assert [m["role"] for m in asked[1]["messages"]] == ["user", "assistant", "tool", "tool"]
    assert [m.get("tool_call_id") for m in asked[1]["messages"][2:]] == ["a1", "a2"]
    assert [c["id"] for c in asked[1]["messages"][1]["tool_calls"]] == ["a1", "a2"]
