"""What one memory holds, carried to another: all of it, where it stood, and seen from the first round on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.memory.kit import Trigrams, solved

from autotelic.core.errors import UsageError
from autotelic.memory import Lesson, Memory, MemoryStore, Query, Record, Skill, dump, load, read_dump


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Memory]:
    opened = await Memory.open(tmp_path / "one", Trigrams())
    yield opened
    await opened.aclose()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Memory]:
    opened = await Memory.open(tmp_path / "other", Trigrams())
    yield opened
    await opened.aclose()


async def carried(one: Memory, other: Memory, scope: str | None = None) -> int:
    return len((await load(other, read_dump(await dump(one)), scope)).added)


async def test_everything_comes_where_it_stood_and_is_seen_from_the_first_round_on(one: Memory, other: Memory) -> None:
    advice = Lesson(id="l1", situation="gcd", advice="divide the larger", right=("r3/e",), round=3, policy=2)
    items = [solved(i, f"what is {'x' * i}?", round=3) for i in range(1, 5)]
    await one.add([advice, *items])
    await one.retire(["d1"], round=3, reason="harmful")
    await one.retire(["d2"], round=3, reason="consolidated")
    await MemoryStore(one).aput(("users", "ada"), "likes", {"text": "tea"})
    assert await carried(one, other) == 6
    rows = await other.rows()
    assert {id_: row.why for id_, row in rows.items() if row.why} == {
        "imported/d1": "harmful",
        "imported/d2": "consolidated",
    }
    [seen] = await other.retrieve([Query("what is xxx", kinds=("demonstration", "lesson"))], 9, before_round=1)
    assert {item.id for item in seen} == {"imported/d3", "imported/d4", "imported/l1"}
    lesson = (await other.get(["imported/l1"]))["imported/l1"]
    assert lesson.right == ("r3/e",) and lesson.policy == 2
    found = await MemoryStore(other).aget(("users", "ada"), "likes")
    first = await MemoryStore(one).aget(("users", "ada"), "likes")
    assert found and first and found.value == {"text": "tea"} and found.created_at == first.created_at
    assert await carried(one, other) == 0 and await other.check(), "twice is once"
    assert (await other.add([solved(1, "what is x?", round=1, id="own")])).added == (), "it did harm"
    assert await other.restore(["imported/d2"]) == ["imported/d2"]
    assert (await dump(other)).count("imported/imported/") == 0


async def test_an_id_that_other_content_has_is_no_loss(one: Memory, other: Memory) -> None:
    await one.add([solved(1, "alpha"), solved(2, "beta")])
    await other.add([solved(1, "something else")])
    await carried(one, other)
    await one.replace(solved(1, "alpha, corrected"))
    assert await carried(one, other) == 1
    texts = {item.question for item in await other.all()}
    assert texts == {"something else", "alpha", "beta", "alpha, corrected"}
    own = solved(2, "the run's own, of the same id", round=1)
    assert (await other.add([own])).added == ("d2",), "what comes in takes no id of the run's own"
    for memory, text in ((one, "tea"), (other, "coffee")):
        await MemoryStore(memory).aput(("users", "ada"), "likes", {"text": text})
    assert await carried(one, other) == 1 and await carried(one, other) == 0
    kept = {item.key: item.value["text"] for item in await MemoryStore(other).asearch(("users", "ada"))}
    assert kept.pop("likes") == "coffee" and list(kept.values()) == ["tea"]


async def test_a_text_may_hold_any_end_of_a_line(one: Memory, other: Memory) -> None:
    texts = {"next\u2028line", "next\u0085line", "next\u2029", "a\r\nb", "c\x0bd\x1ce"}
    await one.add([solved(i, text) for i, text in enumerate(sorted(texts))])
    assert await carried(one, other) == 5
    assert {item.question for item in await other.all()} == texts


async def test_plain_items_of_older_exports_come_in(other: Memory) -> None:
    old = [solved(1, "alpha", round=3), Lesson(id="l1", situation="gcd", advice="divide", right=("e",), round=2)]
    done = await load(other, read_dump("".join(f"{item.model_dump_json()}\n" for item in old)))
    assert done.added == ("imported/d1", "imported/l1")
    assert {item.round for item in await other.all()} == {0}
    with pytest.raises(ValidationError):
        read_dump('{"kind": "lesson", "id": "x"}\n')


async def test_what_comes_in_can_be_put_into_a_scope(one: Memory, other: Memory) -> None:
    code: dict[str, Any] = {"code": "def f(): return 1", "parameters": {}, "tests": (({}, 1),), "gain": (0.2, 0.1, 0.3)}
    first = Skill(id="s1", name="f", description="first", **code)
    second = Skill(id="s2", name="f", description="second", parent="s1", **{**code, "code": "def f(): return 2"})
    note = Record.of(("notes", "run"), "k", {"text": "a note"}, "a note")
    await one.add([solved(1, "alpha"), first, second])
    await one.keep([note, Record.of(("users", "ada"), "k", {"text": "an agent's"})])
    await carried(one, other)
    assert await carried(one, other, "user/ada") == 4, "the agent's own stays where it is, once"
    [seen] = await other.retrieve([Query("alph", scopes=("user/ada",))], 3)
    assert [item.scope for item in seen] == ["user/ada"]
    skills = {item.scope: item for item in await other.all("skill") if item.name == "f" and item.parent}
    assert skills["run"].parent == "imported/s1" and skills["user/ada"].parent in await other.rows()
    assert [item.namespace for item in await MemoryStore(other).asearch(("notes", "user"))] == [
        ("notes", "user", "ada")
    ]
    for wrong in ("ada", "user", "user/", "store/x"):
        with pytest.raises(UsageError, match="is no scope"):
            await load(other, [], wrong)


async def test_what_comes_in_where_there_is_no_room_is_put_out_of_sight_and_not_lost(
    one: Memory, tmp_path: Path
) -> None:
    await one.add([solved(i) for i in range(6)])
    small = await Memory.open(tmp_path / "small", Trigrams(), limit=2)
    await small.add([solved(100, round=5, family="other")])
    assert await carried(one, small, "user/ada") == 6
    kept = [item for item in await small.all() if item.scope == "user/ada"]
    rows = await small.rows()
    assert len(kept) == 6 and sum(not rows[item.id].why for item in kept) == 2
    hidden = [item.id for item in kept if rows[item.id].why]
    assert sorted(await small.restore(hidden)) == sorted(hidden)
    await small.aclose()


async def test_what_was_forgotten_does_not_come_in(one: Memory, other: Memory) -> None:
    await one.add([solved(1, "alpha")])
    await one.keep([Record.of(("notes", "run"), "k", {"text": "a note"}, "a note")])
    assert await carried(one, other) == 2
    assert len(await other.forget([*(await other.rows())])) == 2
    assert await carried(one, other) == 0 and await other.rows() == {}
