"""The two tools over a memory, called as a model calls them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import Item
from tests.memory.kit import Trigrams, solved

from autotelic.agents import memory_tools
from autotelic.core.errors import UsageError
from autotelic.memory import Lesson, Memory, MemoryStore, Query, Record
from autotelic.tools import Toolbox, ToolsConfig, open_toolbox

KEPT = ("namespace", "key", "value", "created_at", "updated_at")


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    opened = await Memory.open(tmp_path / "memory", Trigrams())
    advice = Lesson(id="l1", situation="gcd of two numbers", advice="divide the larger by the smaller", right=("e1",))
    await opened.add([solved(1, "what is the gcd of 4 and 6?"), advice, solved(2, "gcd of 8, 9", scope="user/bob")])
    yield opened
    await opened.aclose()


async def test_what_was_learned_is_looked_up(memory: Memory) -> None:
    box = Toolbox(memory_tools(memory))
    found = await box.call("recall", {"query": "gcd of two numbers, 4 and 7"})
    assert found.ok and "Example: what is the gcd of 4 and 6?\nAnswer: 1" in found.content
    assert "Advice: divide the larger by the smaller" in found.content and "8, 9" not in found.content
    for arguments, reason in (({"query": "x", "count": 0}, "failed"), ({"q": 1}, "bad_arguments")):
        assert (await box.call("recall", arguments)).reason == reason


async def test_a_note_needs_leave_to_write_and_is_never_experience(memory: Memory) -> None:
    refused = await Toolbox(memory_tools(memory)).call("note", {"text": "the zebra code is 7"})
    assert refused.reason == "refused"
    box = Toolbox(memory_tools(memory), allow=("reads", "note"))
    assert (await box.call("note", {"text": "the zebra code is 7"})).ok
    assert (await box.call("note", {"text": "the zebra code is 7"})).ok, "noted twice is one note"
    assert (await box.call("note", {"text": " "})).reason == "failed"
    found = await box.call("recall", {"query": "zebra code?", "count": 1})
    assert found.content == "Note: the zebra code is 7"
    assert {one.kind for one in await memory.all()} == {"demonstration", "lesson"}
    [kept] = await MemoryStore(memory).asearch(("notes", "run"))
    assert kept.value == {"text": "the zebra code is 7"}
    store = MemoryStore(memory)
    assert (await store.aget(kept.namespace, kept.key)) == Item(**{name: getattr(kept, name) for name in KEPT})
    await store.aput(kept.namespace, kept.key, {"text": "the zebra code is 8"})
    assert [one.value for one in await store.asearch(kept.namespace)] == [{"text": "the zebra code is 8"}]
    await store.adelete(kept.namespace, kept.key)
    assert await store.asearch(("notes",)) == []
    await box.call("note", {"text": "the zebra code is 7"})
    other = await Toolbox(memory_tools(memory, scopes=("user/bob",))).call(
        "recall", {"query": "zebra code", "count": 5}
    )
    assert "zebra" not in other.content and "gcd of 8, 9" in other.content


async def test_notes_of_older_versions_are_found_by_the_store(tmp_path: Path) -> None:
    now = "2026-01-02T03:04:05+00:00"
    place: dict[str, Any] = {
        "scope": "store/notes/run",
        "namespace": ("notes", "run"),
        "created_at": now,
        "updated_at": now,
    }
    old = Record(id="note/0123", key="0123", value={"text": "old"}, indexed="old zebra", **place)
    memory = await Memory.open(tmp_path, Trigrams())
    await memory.keep([old])
    await memory.aclose()
    memory = await Memory.open(tmp_path, Trigrams())
    store = MemoryStore(memory)
    found = await store.aget(("notes", "run"), "0123")
    assert found and found.value == {"text": "old"} and found.updated_at.isoformat() == now
    [[same]] = await memory.retrieve([Query("old zebr", kinds=("record",), scopes=None)], 3)
    assert await memory.check() and "note/0123" not in await memory.rows() and same.key == "0123"
    await store.adelete(("notes", "run"), "0123")
    assert await memory.rows() == {}
    await memory.aclose()


async def test_the_config_names_them_where_there_is_a_memory(memory: Memory) -> None:
    config = ToolsConfig(use=("memory",))
    async with open_toolbox(config, made={"memory": memory_tools(memory)}) as box:
        assert [tool.name for tool in box.allowed] == ["recall"]
    with pytest.raises(UsageError, match="are a run's own"):
        async with open_toolbox(config):
            pass
