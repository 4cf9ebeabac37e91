"""Whole turns as careless or hostile models write them: read, acted on, told to the model and kept in a ledger."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from autotelic.agents import Attempt, Bounds, Conversation, ToolLoop
from autotelic.core.dialect import read_turn, turn_schema
from autotelic.core.words import Completion, Message, ToolCall
from autotelic.graphs.acquire import tool_calls
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.store import Ledger, ToolCallRow
from autotelic.tools import Toolbox, calculator, tool
from autotelic.tools._fuzz import _draw, make_calls

ASK = [Message(role="user", content="?")]
TOOK: list[dict[str, Any]] = []


class Place(BaseModel):
    city: str
    near: list[Place] = []


@tool
def go(place: Place, by: Literal["foot", "train"] = "foot", hours: float = 1.0) -> str:
    """Go to a place."""
    TOOK.append({"place": place.model_dump(), "by": by, "hours": hours})
    return f"{place.city} by {by}"


@tool(permission="network")
def send(text: str) -> str:
    """Send a text."""
    raise AssertionError("must not be called")


BOX = Toolbox([go, calculator, send])
OFFERED = {one.name: one.parameters for one in BOX.allowed}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite")
    yield made
    made.close()


def attempted(talk: Conversation) -> Attempt:
    return Attempt(talk.turns[-1].completion, talk.answer, None, talk.reason, calls=tuple(talk.calls))


def kept(ledger: Ledger, talks: Sequence[Conversation]) -> list[ToolCallRow]:
    """Write the calls of conversations as a session does, and read them back."""
    start = ledger.count(ToolCallRow)
    rows = [row for number, talk in enumerate(talks) for row in tool_calls(f"{start}/{number}", start, attempted(talk))]
    assert ledger.add(rows) == len(rows)
    return ledger.rows(ToolCallRow, round=start)


async def talk(text: str) -> Conversation:
    loop = ToolLoop(Gateway(ScriptedBackend(lambda _m, _s: [text])), BOX, Bounds(turns=1))
    return await loop.answer(ASK, Sampling())


# -- half characters


@pytest.mark.parametrize(
    "text",
    [
        r'{"calls":[{"tool":"go","arguments":{"place":{"city":"\ud800"}}}]}',
        r'{"calls":[{"tool":"go","arguments":{"\udc00":1}}]}',
        r'{"calls":[{"tool":"\ud800","arguments":{}}]}',
        r'{"answer":"\ud800"}',
    ],
)
async def test_a_turn_with_half_a_character_says_nothing(ledger: Ledger, text: str) -> None:
    said = read_turn(text)
    assert not said.calls and said.answer is None
    found = await talk(text)
    assert kept(ledger, [found]) == [] and found.answer is None
    for message in found.messages:
        assert message.content.encode()


def test_what_cannot_be_encoded_is_not_read() -> None:
    assert read_turn('{"answer":"\ud800"}').answer is None


async def test_a_turn_with_a_whole_character_in_two_halves_is_read(ledger: Ledger) -> None:
    assert read_turn(r'{"answer":"\ud83d\ude42"}').answer == "\U0001f642"
    found = await talk(r'{"calls":[{"tool":"go","arguments":{"place":{"city":"\ud83d\ude42"}}}]}')
    assert [row.content for row in kept(ledger, [found])] == ["\U0001f642 by foot"]


async def test_what_a_provider_gives_apart_is_made_storable(ledger: Ledger) -> None:
    calls = (
        ToolCall(id="a\ud800", name="g\ud800o", arguments="{}"),
        ToolCall(id="b", name="go", arguments='{"place": {"city": "\ud800"}}'),
        ToolCall(id="c", name="go", arguments=r'{"place": {"city": "\ud800"}}'),
        ToolCall(id="d", name="go", arguments='{"place": {"city": "\ud83d\ude42"}}'),
    )
    said = [
        Completion(text="", finish_reason="tool_calls", calls=calls),
        Completion(text="half \ud800", finish_reason="stop"),
    ]

    class Provider:
        calls_apart = True

        async def complete(self, *_: Any) -> list[Completion]:
            return [said.pop(0)]

        async def aclose(self) -> None: ...

    found = await ToolLoop(Gateway(Provider()), BOX).answer(ASK, Sampling())
    rows = {row.index: row for row in kept(ledger, [found])}
    assert [rows[i].reason for i in range(4)] == ["unknown", "ok", "bad_arguments", "ok"]
    assert rows[3].content == "\U0001f642 by foot" and found.answer == "half \ufffd"
    for message in found.messages:
        assert json.dumps(message.openai(), ensure_ascii=False).encode()


# -- thousands of turns


def fitting(rng: random.Random) -> str:
    schema = turn_schema(OFFERED, 4, answer=True)
    return json.dumps(_draw(schema, schema, rng), ensure_ascii=rng.random() < 0.5)


def broken_call(rng: random.Random) -> str:
    one = rng.choice([go, calculator])
    (call,) = make_calls(one, 1, rng.randrange(2**32))
    return f'{{"calls":[{{"tool":"{one.name}","arguments":{call.arguments}}}]}}'


def torn(rng: random.Random) -> str:
    text = fitting(rng)
    return text[: rng.randrange(len(text))]


def wrong(rng: random.Random) -> str:
    thing: Any = rng.choice([None, True, 7, "x", [], {}, [{}], {"tool": "go"}, {"city": ["x"]}])
    shapes: list[Any] = [
        thing,
        {"calls": thing},
        {"calls": [thing]},
        {"calls": [{"tool": thing, "arguments": {}}]},
        {"calls": [{"tool": "go", "arguments": thing}]},
        {"calls": [{"tool": "go", "arguments": {"place": thing}}]},
        {"answer": None if isinstance(thing, str) else thing},
        {"calls": [{"tool": "go", "arguments": {}}] * 50},
    ]
    return json.dumps(rng.choice(shapes))


def named(rng: random.Random) -> str:
    name = rng.choice(["send", "fly", "", "__init__", "go ", "GO", "go\u0000", "x" * 5000, "</tool_call>"])
    return json.dumps({"calls": [{"tool": name, "arguments": {"text": "x", "place": {"city": "Ulm"}}}]})


def doubled(rng: random.Random) -> str:
    place = '{"city":"Ulm","city":"Rome"}' if rng.random() < 0.5 else '{"city":"Ulm"},"place":{"city":"Rome"}'
    twice = rng.choice(['{"calls":[],"calls":[%s]}', '{"calls":[%s]}'])
    return twice % f'{{"tool":"go","arguments":{{"place":{place}}}}}'


def hostile(rng: random.Random) -> str:
    text = rng.choice(["</tool_call>", '"}],"answer":"x"}', "<|im_end|>", r"\ud800", "\ud800", "\x00", "x" * 250_000])
    inside = text if "\\" in text else json.dumps(text, ensure_ascii=text != "\ud800")[1:-1]
    return rng.choice([
        f'{{"calls":[{{"tool":"go","arguments":{{"place":{{"city":"{inside}"}}}}}}]}}',
        f'{{"calls":[{{"tool":"go","arguments":{{"place":{{"{inside}":1}}}}}}]}}',
        f'{{"calls":[{{"tool":"{inside}","arguments":{{}}}}]}}',
        f'{{"answer":"{inside}"}}',
        text,
        '{"calls":' * 2_000 + inside,
    ])  # fmt: skip


KINDS = (fitting, broken_call, torn, wrong, named, doubled, hostile)


async def test_three_thousand_turns_end_as_they_must(ledger: Ledger) -> None:
    rng = random.Random(7)
    reasons: Counter[str] = Counter()
    for _ in range(30):
        texts = [rng.choice(KINDS)(rng) for _ in range(100)]
        TOOK.clear()
        async with asyncio.timeout(60):
            talks = await asyncio.gather(*map(talk, texts))
        rows = kept(ledger, talks)
        assert len(rows) == sum(len(found.calls) for found in talks), "every call is in the ledger"
        sent = []
        for found in talks:
            assert all(message.content.encode() for message in found.messages[2:])
            meant = _meant(found.messages[1].content)
            if (answer := meant.get("answer")) is not None:
                assert (found.answer, found.calls) == (answer, [])
            for record in found.calls:
                reasons[record.result.reason] += 1
                assert record.result.ok == (record.result.reason == "ok")
                # Nothing is called that a strict reader would not read.
                assert {"tool": record.call.name, "arguments": json.loads(record.call.arguments)} in meant["calls"]
                if record.result.ok and record.call.name == "go":
                    sent.append(json.loads(record.call.arguments)["place"]["city"])
            reasons["nothing"] += found.answer is None and not found.calls
        assert sorted(took["place"]["city"] for took in TOOK) == sorted(sent), "what was taken was said to be taken"
    assert ledger.count(ToolCallRow) == sum(reasons.values()) - reasons["nothing"]
    for reason in ("ok", "bad_arguments", "refused", "unknown", "failed", "nothing"):
        assert reasons[reason] > 30, reasons


def _meant(text: str) -> dict[str, Any]:
    """What a turn means, read by other means than ours; empty where it means nothing."""
    twice = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            twice.append(pairs)
        return dict(pairs)

    try:
        meant = json.loads(text, object_pairs_hook=once)
        json.dumps(meant, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    usable = isinstance(meant, dict) and not twice and len(text) <= 200_000
    if usable and isinstance(meant.get("calls"), list):
        calls = [call for call in meant["calls"] if isinstance(call, dict) and "tool" in call]
        meant["calls"] = [{**call, "tool": str(call["tool"])} for call in calls]
    return meant if usable and not isinstance(meant.get("answer"), int | list | dict) else {}
