"""Three kinds behind one door: what may enter, what is one, who may see it, how it is ranked, how it leaves."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding
from tests.memory.kit import Trigrams, solved

from autotelic.core.errors import UsageError
from autotelic.memory import (
    Attempted,
    CachedEmbedder,
    LangChainEmbedder,
    Lesson,
    Memory,
    Query,
    Skill,
    open_embedder,
    usefulness,
)
from autotelic.memory._index import Index
from autotelic.memory.ranking import diverse, fuse, within


def lesson(i: int, advice: str, **rest: Any) -> Lesson:
    base: dict[str, Any] = {
        "id": f"l{i}",
        "environment": "gym",
        "family": "gcd",
        "situation": "gcd",
        "right": (f"e{i}",),
    }
    return Lesson.model_validate({**base, "advice": advice, **rest})


def skill(i: int, name: str, **rest: Any) -> Skill:
    base: dict[str, Any] = {"id": f"s{i}", "name": name, "code": f"def {name}(): return {i}", "parameters": {}}
    base |= {"description": f"does {name}", "tests": (({}, i),), "gain": (0.2, 0.1, 0.3)}
    return Skill.model_validate({**base, **rest})


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    opened = await Memory.open(tmp_path / "memory", Trigrams())
    yield opened
    await opened.aclose()


async def found(memory: Memory, text: str, k: int = 5, **rest: Any) -> list[str]:
    how = {name: rest.pop(name) for name in ("keywords", "variety", "tokens", "count") if name in rest}
    [items] = await memory.retrieve([Query(text, **rest)], k, **how)
    return [one.id for one in items]


async def test_only_verified_experience_enters(memory: Memory) -> None:
    done = await memory.add(
        [
            solved(1),
            solved(2, score=0.5),
            lesson(1, "divide the larger by the smaller", right=()),
            lesson(2, "  "),
            skill(1, "untested", tests=()),
            skill(2, "useless", gain=(0.1, -0.1, 0.3)),
            skill(3, "unmeasured", gain=None),
            skill(4, "wanted", gain=None, pinned=True),
            skill(5, "useful"),
            solved(3, "x" * 30_000),
        ]
    )
    assert done.added == ("d1", "s4", "s5")
    assert {id_: why.split(";")[0] for id_, why in done.refused.items()} == {
        "d2": "its score is 0.5",
        "l1": "it rests on no judged trajectory",
        "l2": "it has no advice",
        "s1": "it has no tests that it passed",
        "s2": "matched rollouts have shown no gain",
        "s3": "matched rollouts have shown no gain",
        "d3": done.refused["d3"],
    }
    assert "characters" in done.refused["d3"]


async def test_a_lesson_said_again_is_one_lesson_that_rests_on_more(memory: Memory) -> None:
    first = await memory.add([lesson(1, "divide the larger number by the smaller one")])
    again = await memory.add(
        [
            lesson(2, "divide the larger number by the smaller ones", right=("e2",), wrong=("e9",)),
            lesson(3, "divide the larger number by the smaller one", family="other"),
            lesson(4, "count letters from the left"),
            lesson(5, "count letters from the left!"),
        ]
    )
    assert first.added == ("l1",) and again.added == ("l3", "l4") and again.merged == {"l2": "l1", "l5": "l4"}
    known: Lesson = (await memory.get(["l1"]))["l1"]
    assert known.right == ("e1", "e2") and known.wrong == ("e9",)
    assert (await memory.add([lesson(6, "Divide the larger number by the smaller  one")])).added == (), (
        "exactly the same"
    )


async def test_kinds_and_scopes_are_seen_by_who_asks_for_them(memory: Memory) -> None:
    await memory.add(
        [
            solved(1, "gcd of 4 and 6"),
            solved(2, "gcd of 4 and 8", scope="user/ada"),
            solved(3, "gcd of 4 and 9", scope="user/adam"),
            solved(4, "gcd of 4 and 10", scope="user/ada/private"),
            lesson(1, "gcd of 4: try 2"),
            skill(1, "gcd"),
        ]
    )
    assert await found(memory, "gcd of 4 and 7") == ["d1"]
    assert set(await found(memory, "gcd of 4", scopes=("user/ada",))) == {"d2", "d4"}
    assert set(await found(memory, "gcd of 4", scopes=None)) == {"d1", "d2", "d3", "d4"}
    assert await found(memory, "gcd of 4", scopes=()) == []
    assert set(await found(memory, "gcd", kinds=("lesson", "skill"))) == {"l1", "s1"}
    assert [one.id for one in await memory.all("skill")] == ["s1"]


async def _by_words(memory: Memory, text: str) -> list[str]:
    where = Query(text).where()
    return await memory._locked(lambda: memory._truth.by_words(text, where, 5))


async def test_rare_words_find_what_meaning_does_not(memory: Memory) -> None:
    await memory.add([solved(i, f"the train number {i} leaves at noon from the old station") for i in range(40)])
    await memory.add([solved(99, "zyzzyva: the last word in the book, whatever you may think of it")])
    query = "the train number 7 leaves at noon from the old station, says the zyzzyva"
    assert "d99" not in await found(memory, query)
    assert "d99" in await found(memory, query, keywords=True)
    assert await found(memory, '"; DROP TABLE items; -- * NEAR( ^', keywords=True), "no word is syntax"


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("meet me at the café Łódź", "CAFÉ"),
        ("meet me at the café", "cafe"),
        ("call foo_bar_baz() twice", "what does foo_bar_baz do?"),
        ("the Việt language", "Việt"),
        ("an étude for piano", "e\u0301tude"),
    ],
)
async def test_words_are_cut_alike_in_texts_and_in_questions(memory: Memory, text: str, asked: str) -> None:
    await memory.add([solved(i, f"the train number {i} leaves at noon from the old station") for i in range(20)])
    await memory.add([solved(99, text)])
    assert await _by_words(memory, asked) == ["d99"]


async def test_an_item_of_the_very_text_is_for_people_alone(memory: Memory) -> None:
    await memory.add([solved(1, "alpha beta"), solved(2, "alpha beta gamma")])
    assert await found(memory, "alpha beta") == ["d2"]
    assert await found(memory, "alpha beta", itself=True) == ["d1", "d2"]


async def test_variety_takes_in_what_is_unlike_and_a_budget_leaves_out_what_is_long(memory: Memory) -> None:
    await memory.add([solved(i, f"count the apples in basket {i}") for i in range(5)])
    await memory.add(
        [solved(9, "count the apples, then tell the weekday after Monday"), solved(8, "count the " + "very " * 200)]
    )
    near = await found(memory, "count the apples in basket 7", 3)
    assert "d9" not in near and "d9" in await found(memory, "count the apples in basket 7", 3, variety=0.7)
    short = await found(memory, "count the very very very very", 7, tokens=60)
    assert "d8" not in short and 1 <= len(short) < 7
    assert await found(memory, "count the very", 7, tokens=1, count=lambda text: 2) == []


async def test_what_is_retired_can_come_back_and_earlier_rounds_still_see_it(memory: Memory) -> None:
    await memory.add([solved(1, "gcd of 4 and 6"), solved(2, "gcd of 4 and 8")])
    assert await memory.retire(["d1", "none"], round=3, reason="harmful") == ["d1"]
    assert await memory.retire(["d1"], round=4, reason="again") == []
    assert await found(memory, "gcd of 4") == ["d2"]
    assert [len(row) for row in await memory.retrieve([Query("gcd of 4")], 5, before_round=3)] == [2]
    assert (await memory.rows())["d1"].why == "harmful"
    assert await memory.restore(["d1", "d2"]) == ["d1"] and set(await found(memory, "gcd of 4")) == {"d1", "d2"}


async def test_a_changed_item_is_found_by_its_new_words_alone(memory: Memory) -> None:
    await memory.add([skill(1, "reverser", description="turns a word around zanzibar"), skill(2, "other")])
    await memory.replace(skill(1, "reverser", description="spells backward", pinned=True))
    assert (await memory.get(["s1"]))["s1"].pinned
    [items] = await memory.retrieve([Query("zanzibar", kinds=("skill",))], 1, keywords=True, variety=0.0)
    assert "zanzibar" not in items[0].text
    with pytest.raises(UsageError, match="nothing is remembered under 's9'"):
        await memory.replace(skill(9, "none"))


async def test_forgotten_words_leave_the_file(memory: Memory, tmp_path: Path) -> None:
    await memory.add([lesson(1, "remember the quokka"), lesson(2, "count slowly and twice")])
    await memory.forget(["l1"])
    await memory.aclose()
    for file in (tmp_path / "memory").rglob("*"):
        assert not file.is_file() or b"quokka" not in file.read_bytes(), file
    with sqlite3.connect(tmp_path / "memory" / "memory.sqlite") as db:
        assert [row[0] for row in db.execute("SELECT term FROM terms WHERE term IN ('quokka', 'slowly')")] == ["slowly"]
    db.close()


async def test_the_index_is_built_again_by_a_process_that_never_saw_what_is_forgotten(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memory.add([solved(1, "gcd of 4 and 6"), solved(2, "gcd of 4 and 8")])

    def here(*_: object) -> None:
        raise AssertionError("this process wrote the index, and may have left its memory in it")

    monkeypatch.setattr(Index, "put", here)
    assert await memory.forget(["d1"]) == ["d1"]
    assert await found(memory, "gcd of 4 and 7") == ["d2"] and await memory.check()


async def test_no_vector_of_what_is_forgotten_stays_in_any_file(tmp_path: Path) -> None:
    directory, secret = tmp_path / "memory", lesson(1, "the quokka lives at 7 Elm Street")
    embedder = CachedEmbedder(Trigrams("old"), directory / "embeddings.sqlite")
    await embedder.embed([secret.text])
    await embedder.aclose()
    embedder = CachedEmbedder(Trigrams(), directory / "embeddings.sqlite")
    memory = await Memory.open(directory, embedder)
    await memory.add([secret, lesson(2, "count slowly and twice")])
    [gone, kept] = await embedder.embed([secret.text, lesson(2, "count slowly and twice").text])
    keys = [hashlib.sha256(f"{name}\0{secret.text}".encode()).hexdigest().encode() for name in ("trigrams", "old")]

    def holding(mark: bytes) -> list[str]:
        return [file.name for file in directory.rglob("*") if file.is_file() and mark in file.read_bytes()]

    assert "embeddings.sqlite" in "".join(holding(gone.tobytes())) and all(holding(key) for key in keys)
    await memory.forget(["l1"])
    # Looked at before this process, which knows the vector, writes again (see `Index.rebuild_apart`).
    for mark in (gone.tobytes(), *keys):
        assert holding(mark) == []
    await memory.aclose()
    inner = Trigrams()
    again = CachedEmbedder(inner, directory / "embeddings.sqlite")
    assert np.array_equal((await again.embed([lesson(2, "count slowly and twice").text]))[0], kept)
    assert inner.asked == [], "the others' vectors stay"
    await again.aclose()
    await embedder.aclose()


async def test_langchain_embeddings_by_config(tmp_path: Path) -> None:
    spec = "langchain_core.embeddings:DeterministicFakeEmbedding"
    embedder = open_embedder(spec, {"size": 24})
    memory = await Memory.open(tmp_path, embedder)
    await memory.add([solved(1, "alpha"), solved(2, "beta")])
    expected = np.array(DeterministicFakeEmbedding(size=24).embed_query("alpha"), dtype=np.float32)
    [made] = await embedder.embed(["alpha"])
    assert made @ (expected / np.linalg.norm(expected)) == pytest.approx(1.0, abs=1e-5) and embedder.dimension == 24
    assert len(await found(memory, "gamma")) == 2
    await memory.aclose()
    for wrong, arguments, says in (
        (spec, {"sise": 3}, "cannot be made: ValidationError"),
        ("no.such:Thing", {}, "cannot be made: ModuleNotFoundError"),
        ("pathlib:Path", {}, "not LangChain's Embeddings"),
        ("minilm", {"size": 3}, "takes none"),
    ):
        with pytest.raises(UsageError, match=says):
            open_embedder(wrong, arguments)


class Keyed(DeterministicFakeEmbedding):
    """Embeddings that take what a provider's class takes."""

    model: str = "small"
    api_key: str = ""
    default_headers: dict[str, str] | None = None
    model_kwargs: dict[str, Any] | None = None
    timeout: float = 1.0


async def test_an_embedder_is_named_by_its_model_and_never_by_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_core.embeddings.Keyed", Keyed, raising=False)
    spec = "langchain_core.embeddings:Keyed"

    def named(**rest: Any) -> str:
        given = {
            "size": 24,
            "model": "large",
            "api_key": "sk-hidden",
            "default_headers": {"Authorization": "sk-hidden"},
        }
        return open_embedder(spec, {**given, "model_kwargs": {"model_key": "sk-hidden", "revision": "r1"}, **rest}).name

    assert named() == named(api_key="sk-other", timeout=9.0) and "hidden" not in named()
    assert len({named(), named(model="small"), named(size=25), named(model_kwargs={"revision": "r2"})}) == 4
    plain = open_embedder("langchain_core.embeddings:DeterministicFakeEmbedding", {"size": 24})
    assert plain.name == 'langchain_core.embeddings:DeterministicFakeEmbedding {"size": 24}', "as it always was"
    # A memory of an older version, whose embedder's name has the key in it.
    old = LangChainEmbedder(DeterministicFakeEmbedding(size=24), f'{spec} {{"api_key": "sk-hidden"}}')
    memory = await Memory.open(tmp_path, old)
    await memory.add([solved(1, "alpha")])
    await memory.aclose()
    assert any(b"sk-hidden" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    memory = await Memory.open(tmp_path, open_embedder(spec, {"size": 24, "api_key": "sk-hidden"}))
    assert not any(b"sk-hidden" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    await memory.aclose()


def test_usefulness_by_hand() -> None:
    bare = [Attempted("t", 1, 2, (), score) for score in (0.0, 0.0, 1.0, 0.0)]
    helped = [Attempted("t", 1, 2, ("a", "b"), 1.0)] * 8 + [Attempted("t", 1, 2, ("b",), 0.0)] * 8
    elsewhere = [Attempted("u", 1, 2, ("c",), 1.0), Attempted("t", 2, 2, ("c",), 1.0)]
    worth = usefulness([*bare, *helped, *elsewhere], now=2)
    assert set(worth) == {"a", "b"}, "no bare attempt at u, none by policy 2"
    assert (worth["a"].uses, worth["a"].gain) == (8, 0.75) and worth["b"].gain == pytest.approx(0.25)
    assert worth["a"].low > 0 > worth["b"].low
    old = usefulness([*bare, *helped], now=20)["a"]
    assert old.low < 0 and old.gain == pytest.approx(0.75), "old evidence proves little"


@given(st.integers(0, 40), st.floats(0, 1))
def test_harm_is_told_from_chance_only_with_enough_uses(n: int, share: float) -> None:
    bare = [Attempted("t", 0, 0, (), share)]
    one = usefulness([*bare, *[Attempted("t", 0, 0, ("a",), share)] * n], now=0).get("a")
    assert one is None if n == 0 else one is not None and one.low < 0 < one.high


def test_ranking_by_hand() -> None:
    assert fuse([["a", "b", "c"], ["c", "d"]]) == ["c", "a", "b", "d"]
    vectors = {name: np.array(v, dtype=np.float32) for name, v in {"a": (1, 0), "b": (1, 0), "c": (0, 1)}.items()}
    assert diverse(["a", "b", "c"], vectors, 2, 0.0) == ["a", "b"]
    assert diverse(["a", "b", "c"], vectors, 2, 0.6) == ["a", "c"]
    assert within(5, ["aa", "bbbbb", "cc"], len) == [0, 2] and within(None, ["a"], len) == [0]
