"""The toolbox, what is built in, and ten thousand bad calls."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.tools import tool as langchain_tool

from autotelic.core.errors import UsageError
from autotelic.tools import (
    Tool,
    Toolbox,
    ToolsConfig,
    as_tool,
    calculator,
    documents,
    load_tools,
    open_toolbox,
    sql,
    tool,
)
from autotelic.tools._fuzz import fuzz, make_calls

ECHOED: list[dict[str, Any]] = []


@tool
def echo(
    text: str, count: int = 1, scale: float = 1.0, mode: Literal["a", "b"] = "a", tags: list[str] | None = None
) -> str:
    """Give back what came in."""
    ECHOED.append({"text": text, "count": count, "scale": scale, "mode": mode, "tags": tags})
    return text


@tool(permission="writes")
def remove(name: str) -> str:
    """Remove something."""
    raise AssertionError("must not be called")


# -- what is allowed


async def test_what_is_not_allowed_is_refused_and_says_so() -> None:
    box = Toolbox([echo, remove])
    assert ([t.name for t in box.allowed], [t.name for t in box.refused]) == (["echo"], ["remove"])
    refused = await box.call("remove", {"name": "x"})
    assert (refused.ok, refused.reason) == (False, "refused") and "writes, is not allowed" in refused.content
    unknown = await box.call("fly", "{}")
    assert (unknown.reason, unknown.content) == ("unknown", "there is no tool 'fly'; there are: echo")
    assert [t.name for t in Toolbox([echo, remove], ["remove"]).allowed] == ["remove"]
    assert [t.name for t in Toolbox([echo, remove], ["writes", "pure"]).allowed] == ["echo", "remove"]
    for tools, allow, says in (([echo, echo], ["pure"], "two tools are called 'echo'"), ([echo], ["ekho"], "'ekho'")):
        with pytest.raises(UsageError, match=says):
            Toolbox(tools, allow)


async def test_a_toolbox_is_joined_by_tools_under_the_same_rules() -> None:
    box = Toolbox([echo], ["pure"])
    joined = box.joined([remove])
    assert ([t.name for t in joined.allowed], [t.name for t in joined.refused]) == (["echo"], ["remove"])
    assert [t.name for t in box.refused] == [], "the box itself stays as it is"
    assert [t.name for t in Toolbox([], ["writes"]).joined([remove]).allowed] == ["remove"]
    with pytest.raises(UsageError, match="two tools are called 'echo'"):
        box.joined([echo])


async def test_a_pinned_tool_that_is_not_there_is_an_error() -> None:
    async with open_toolbox(ToolsConfig(use=("calculator",), pick=2, pinned=("calculator",))) as toolbox:
        assert [t.name for t in toolbox.allowed] == ["calculator"]
    with pytest.raises(UsageError, match=r"tools\.pinned names 'calc', and there is no such tool"):
        async with open_toolbox(ToolsConfig(use=("calculator",), pinned=("calc",))):
            pass


def test_a_tool_that_does_not_say_what_it_can_do_counts_as_the_worst() -> None:
    @langchain_tool
    def shout(text: str) -> str:
        """Say it louder."""
        return text.upper()

    assert as_tool(shout).permission == "network"
    shout.metadata = {"permission": "pure"}
    assert as_tool(shout).permission == "pure"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "two words"}, "cannot be called"),
        ({"permission": "anything"}, "permission class"),
        ({"parameters": {"type": "objekt"}}, "no JSON schema"),
    ],
)
def test_a_tool_that_cannot_be_used_is_refused_when_it_is_made(changes: dict[str, Any], says: str) -> None:
    async def nothing(_: dict[str, Any]) -> None: ...

    given: dict[str, Any] = {"name": "x", "description": "d", "parameters": {"type": "object"}, "function": nothing}
    given |= changes
    with pytest.raises(UsageError, match=says):
        Tool(**given)


async def test_a_schema_that_points_elsewhere_is_not_followed() -> None:
    async def nothing(_: dict[str, Any]) -> str:
        return "done"

    far = Tool("far", "d", {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, nothing)
    assert (await far({"a": 1})).reason == "bad_arguments"


async def test_a_plain_function_that_hangs_holds_up_nobody() -> None:
    ended = threading.Event()

    @tool(seconds=0.05)
    def hang(x: int) -> None:
        """Wait."""
        ended.wait(20)

    results = await asyncio.gather(*(hang({"x": index}) for index in range(40)))
    assert {result.reason for result in results} == {"timeout"}
    assert (await echo({"text": "still here"})).content == "still here"
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "autotelic-tool")
    ended.set()


async def test_a_tool_that_exits_or_floods_ends_as_a_result() -> None:
    @tool
    def leave(code: int) -> None:
        """Exit."""
        raise SystemExit(code)

    @tool
    async def leave_too(code: int) -> None:
        """Exit."""
        raise SystemExit(code)

    @tool
    def flood(x: int) -> str:
        """Say much."""
        return "\ud800" * x

    for one in (leave, leave_too):
        assert (await one({"code": 3})).reason == "failed"
    flooded = await flood({"x": 10_000_000})
    assert len(flooded.content) < 8100 and flooded.content.encode("utf-8")


# -- what is built in


async def test_documents_are_searched_and_found_again_when_they_change(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "bread.md").write_text("# Bread\n\nThe oven is hot.\n\nKnead the dough for nine minutes.\n")
    (tmp_path / "tea.txt").write_text("Steep the tea for four minutes.\n")
    (tmp_path / "picture.png").write_bytes(b"dough dough dough")
    outside = tmp_path.parent / f"{tmp_path.name}-outside.txt"
    outside.write_text("dough secret")
    (tmp_path / "link.txt").symlink_to(outside)
    search = documents(str(tmp_path))
    found = await search({"query": "How long is dough kneaded?", "count": 2})
    assert found.ok and found.content.startswith("notes/bread.md:1\n") and "nine minutes" in found.content
    assert "secret" not in found.content and "picture" not in found.content
    (tmp_path / "tea.txt").write_text("Steep the dough for forty minutes, dough, dough.\n")
    assert (await search({"query": "dough", "count": 1})).content.startswith("tea.txt:1")
    assert (await search({"query": "zeppelin"})).content == "nothing was found"
    (tmp_path / "long.txt").write_text("first\n" + "word " * 400 + "quince " + "word " * 400 + "x" * 3000 + " medlar\n")
    for word in ("quince", "medlar"):
        found = await search({"query": word})
        assert found.content.startswith("long.txt:2\n") and word in found.content and len(found.content) < 1300
    for query in ("???", '"', "a OR b) NEAR"):
        assert (await search({"query": query})).reason in ("ok", "failed")
    outside.unlink()
    with pytest.raises(UsageError, match="there is no folder"):
        documents(str(tmp_path / "none"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    file = tmp_path / "shop.db"
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE item (name TEXT, price REAL, picture BLOB)")
        db.executemany("INSERT INTO item VALUES (?, ?, ?)", [(f"item {i}", i / 2, b"xyz") for i in range(300)])
    return file


async def test_sql_reads(shop: Path) -> None:
    query = sql(str(shop))
    assert "CREATE TABLE item" in query.description
    found = await query({"statement": "SELECT name, price, picture FROM item WHERE price > 148 ORDER BY price"})
    assert found.content.splitlines() == [
        '["name", "price", "picture"]', *(f'["item {i}", {i / 2}, "<3 bytes>"]' for i in (297, 298, 299))
    ]  # fmt: skip
    assert (await query({"statement": "WITH x AS (SELECT max(price) m FROM item) SELECT m FROM x"})).ok
    many = (await query({"statement": "SELECT * FROM item"})).content
    assert len(many.splitlines()) == 102 and many.endswith("(more than 100 rows; ask for less)")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM item",
        "UPDATE item SET price = 0",
        "DROP TABLE item",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "ATTACH DATABASE '{dir}/other.db' AS other",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "VACUUM INTO '{dir}/copy.db'",
        "SELECT load_extension('x')",
        "SELECT writefile('{dir}/out', 'x')",
        "SELECT 1; DELETE FROM item",
        "BEGIN",
        "",
        "SELEC",
    ],
)
async def test_sql_does_nothing_but_read(shop: Path, statement: str) -> None:
    before, names = shop.read_bytes(), sorted(shop.parent.iterdir())
    result = await sql(str(shop))({"statement": statement.format(dir=shop.parent)})
    assert (result.ok, result.reason) == (False, "failed"), result.content
    assert shop.read_bytes() == before and sorted(shop.parent.iterdir()) == names


@pytest.mark.e2e
async def test_sql_that_never_ends_is_ended(shop: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert "interrupted" in (await sql(str(shop))({"statement": endless})).content


@pytest.mark.e2e
@pytest.mark.parametrize(
    "endless",
    [
        "instr(printf('%.*c', 9000000, 'a'), printf('%.*c', 4500000, 'a') || 'b')",
        "replace(printf('%.*c', 9000000, 'a'), printf('%.*c', 4500000, 'a') || 'b', 'c')",
    ],
)
async def test_sql_that_never_ends_in_a_single_step_is_ended(shop: Path, endless: str) -> None:
    query = sql(str(shop))
    assert "interrupted" in (await query({"statement": f"SELECT {endless}"})).content
    assert (await query({"statement": "SELECT count(*) FROM item"})).content.endswith("[300]")


async def test_sql_that_eats_memory_is_stopped(shop: Path) -> None:
    much = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300) " + (
        "SELECT i, printf('%.*c', 9000000, 'a') AS x FROM n ORDER BY x, i"
    )
    result = await sql(str(shop))({"statement": much})
    assert (result.ok, result.reason) == (False, "failed") and "memory" in result.content


def test_tools_that_are_made_from_something_say_so(shop: Path) -> None:
    assert [t.name for t in load_tools(f"sql={shop}")] == ["sql"]
    for spec, says in (
        ("sql", "is made from something"),
        ("calculator=3", "takes nothing after"),
        (f"sql={shop}.none", "there is no file"),
        (f"sql={__file__}", "cannot be read as an SQLite database"),
    ):
        with pytest.raises(UsageError, match=says):
            load_tools(spec)


# -- bad calls


async def test_ten_thousand_calls_end_as_they_must(shop: Path, tmp_path: Path) -> None:
    config = ToolsConfig(use=("python", "calculator", f"documents={tmp_path}", f"sql={shop}"))
    async with open_toolbox(config) as toolbox:
        for one, count in (("python", 600), ("calculator", 3000), ("documents", 1200), ("sql", 200)):
            (made,) = [t for t in toolbox.allowed if t.name == one]
            assert await fuzz(made, count, seed=1) == []
    ECHOED.clear()
    assert await fuzz(echo, 5000, seed=2) == []
    fitting = [json.loads(c.arguments) for c in make_calls(echo, 5000, seed=2) if c.kind == "fitting"]
    assert len(ECHOED) == len(fitting) > 1000
    for got, sent in zip(ECHOED, fitting, strict=True):
        assert got == {"count": 1, "scale": 1.0, "mode": "a", "tags": None} | sent, "what fits arrives as it was sent"


async def test_the_fuzzer_finds_tools_that_take_anything() -> None:
    async def anything(_: dict[str, Any]) -> str:
        return "fine"

    careless = Tool("careless", "d", {"type": "object", "additionalProperties": True}, anything)
    kinds = {finding.call.kind for finding in await fuzz(careless, 300)}
    assert kinds == {"unknown_name"}
    assert await fuzz(calculator, 100, run_fitting=False) == []
