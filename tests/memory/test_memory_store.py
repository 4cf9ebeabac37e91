"""LangGraph's store over a memory: held to LangGraph's own in-memory store, operation by operation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from tests.memory.kit import Trigrams, solved

from autotelic.core.errors import UsageError
from autotelic.memory import Memory, MemoryStore

LABELS = st.sampled_from(["a", "b", "a/b", "ä 0", "*"])
SPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["k", "l", "k/l"])
VALUES = st.fixed_dictionaries(
    {"n": st.integers(-3, 3), "text": st.sampled_from(["red fox", "blue whale", "green tea"])},
    optional={"in": st.fixed_dictionaries({"x": st.booleans()})},
)
FILTERS = st.none() | st.sampled_from(
    [{"n": 1}, {"n": {"$gte": 0, "$lt": 2}}, {"text": {"$ne": "red fox"}}, {"in": {"x": True}}, {"none": None}]
)
CONDITIONS = st.lists(
    st.builds(MatchCondition, match_type=st.sampled_from(["prefix", "suffix"]), path=SPACES), max_size=2
).map(tuple)
OPS = st.one_of(
    st.builds(PutOp, namespace=SPACES, key=KEYS, value=st.none() | VALUES),
    st.builds(PutOp, namespace=SPACES, key=KEYS, value=VALUES),
    st.builds(GetOp, namespace=SPACES, key=KEYS),
    st.builds(
        SearchOp,
        namespace_prefix=SPACES | st.just(()),
        filter=FILTERS,
        limit=st.just(500),
        offset=st.just(0),
        query=st.none(),
    ),
    st.builds(
        ListNamespacesOp,
        match_conditions=CONDITIONS,
        max_depth=st.none() | st.integers(1, 3),
        limit=st.integers(0, 9),
        offset=st.just(0),
    ),
)


class Said(TypedDict, total=False):
    """What the agent is told and says."""

    user: str
    likes: str
    answer: str


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    opened = await Memory.open(tmp_path / "memory", Trigrams())
    yield opened
    await opened.aclose()


def plain(result: Any) -> Any:
    """A result without its times, and search results in an order of their own."""
    if isinstance(result, list) and result and hasattr(result[0], "value"):
        return sorted((one.namespace, one.key, str(one.value)) for one in result)
    return (result.namespace, result.key, result.value) if hasattr(result, "value") else result


@given(st.lists(st.lists(OPS, min_size=1, max_size=6), min_size=1, max_size=6))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_answers_as_langgraphs_own_store_does(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Op]]
) -> None:
    async def work() -> None:
        memory = await Memory.open(tmp_path_factory.mktemp("store"), Trigrams())
        ours, theirs = MemoryStore(memory), InMemoryStore()
        for ops in batches:
            expected = [plain(result) for result in theirs.batch(ops)]
            got = [plain(result) for result in await ours.abatch(ops)]
            lists = [i for i, op in enumerate(ops) if isinstance(op, ListNamespacesOp)]
            for i in lists:  # theirs also names namespaces that are empty
                assert set(got[i]) <= set(expected[i]) or len(expected[i]) == ops[i].limit  # type: ignore[union-attr]
            assert [g for i, g in enumerate(got) if i not in lists] == [
                e for i, e in enumerate(expected) if i not in lists
            ]
        await memory.aclose()

    asyncio.run(work())


async def test_namespaces_are_those_that_hold_something(memory: Memory) -> None:
    store = MemoryStore(memory)
    for namespace in [("users", "ada", "facts"), ("users", "bob", "facts"), ("users", "bob"), ("docs",)]:
        await store.aput(namespace, "k", {"x": 1})
    assert await store.alist_namespaces(prefix=("users",), max_depth=2) == [("users", "ada"), ("users", "bob")]
    assert await store.alist_namespaces(suffix=("facts",)) == [("users", "ada", "facts"), ("users", "bob", "facts")]
    assert await store.alist_namespaces(prefix=("*", "bob"), limit=1, offset=1) == [("users", "bob", "facts")]
    await store.adelete(("docs",), "k")
    assert ("docs",) not in await store.alist_namespaces()


async def test_search_is_by_meaning_pages_and_keeps_unindexed_things_last(memory: Memory) -> None:
    store = MemoryStore(memory, fields=("text",))
    for i, text in enumerate(["the red fox", "the red foxes", "a blue whale", "some green tea"]):
        await store.aput(("notes", str(i)), "k", {"text": text, "even": i % 2 == 0})
    await store.aput(("notes", "hidden"), "k", {"text": "the red fox"}, index=False)
    await store.aput(("notes", "title"), "k", {"text": "nothing", "title": "the red fox!"}, index=["title"])
    found = await store.asearch(("notes",), query="the red fox")
    assert [one.namespace[1] for one in found][:3] == ["0", "title", "1"]
    assert found[0].score == pytest.approx(1.0) and found[-1].namespace[1] == "hidden" and found[-1].score is None
    assert [one.key for one in await store.asearch(("notes",), query="the red fox", limit=2, offset=4)] == ["k", "k"]
    even = await store.asearch(("notes",), query="blue", filter={"even": True})
    assert [one.namespace[1] for one in even] == ["2", "0"]
    before = await store.aget(("notes", "2"), "k")
    await store.aput(("notes", "2"), "k", {"text": "a red fox, changed"})
    after = await store.aget(("notes", "2"), "k")
    assert before and after and after.created_at == before.created_at and after.updated_at > before.updated_at
    assert "2" in [one.namespace[1] for one in await store.asearch(("notes",), query="red fox", limit=4)]


async def test_a_namespace_is_bounded_and_what_was_written_longest_ago_leaves(tmp_path: Path) -> None:
    memory = await Memory.open(tmp_path, Trigrams(), records=3)
    store = MemoryStore(memory)
    for key in ("a", "b", "c", "a", "d", "e"):
        await store.aput(("notes",), key, {"text": f"note {key}"})
    await store.aput(("notes", "deeper"), "x", {"text": "another namespace"})
    assert sorted(one.key for one in await store.asearch(("notes",), query="note")) == ["a", "d", "e", "x"]
    assert await store.aget(("notes",), "b") is None and await memory.check()
    await memory.aclose()


async def test_what_was_learned_can_be_read_and_not_written(memory: Memory) -> None:
    store = MemoryStore(memory)
    await memory.add([solved(1, "what is the gcd of 4 and 6?"), solved(2, "gcd of 9 and 12", scope="user/ada")])
    [found] = await store.asearch(("memory", "demonstration", "run"), query="gcd of 4 and 8")
    assert found.value["question"].startswith("what") and found.namespace == ("memory", "demonstration", "run")
    assert (await store.aget(found.namespace, found.key)) is not None
    assert ("memory", "demonstration", "user", "ada") in await store.alist_namespaces()
    with pytest.raises(UsageError, match="cannot be written"):
        await store.aput(("memory", "demonstration", "run"), "k", {"question": "?"})
    await store.aput(("mine",), "k", {"text": "a note"})
    assert [one.kind for one in await memory.all()] == ["demonstration", "demonstration"], (
        "records are not shown to solvers"
    )


async def test_wrong_use_says_so(memory: Memory) -> None:
    store = MemoryStore(memory)
    with pytest.raises(InvalidNamespaceError):
        await store.abatch([PutOp(("a.b",), "k", {"x": 1})])
    with pytest.raises(NotImplementedError, match="TTL"):
        await store.aput(("a",), "k", {"x": 1}, ttl=5)
    with pytest.raises(UsageError, match="not JSON"):
        await store.aput(("a",), "k", {"x": object()})
    with pytest.raises(UsageError, match="without await"):
        store.get(("a",), "k")


async def test_an_agent_of_langgraphs_uses_it_from_plain_and_async_nodes(memory: Memory) -> None:
    async def learn(state: Said, *, store: BaseStore) -> dict[str, Any]:
        await store.aput(("users", state["user"]), "likes", {"text": state["likes"]})
        return {}

    def tell(state: Said, *, store: BaseStore) -> dict[str, Any]:
        [found] = store.search(("users", state["user"]), query="what is liked?")
        return {"answer": found.value["text"]}

    graph: Any = StateGraph(Said)
    graph.add_node("learn", learn)
    graph.add_node("tell", tell)
    graph.add_edge(START, "learn")
    graph.add_edge("learn", "tell")
    graph.add_edge("tell", END)
    agent = graph.compile(store=MemoryStore(memory))
    said = await agent.ainvoke({"user": "ada", "likes": "tea"})
    assert said["answer"] == "tea"
