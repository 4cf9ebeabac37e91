"""The memory, through its public face, on a small real embedder."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.kit import Trigrams, solved

from autotelic.core.errors import StoreError, UsageError
from autotelic.memory import Demonstration, Memory, Query
from autotelic.memory.ranking import least_diverse


def ids(found: list[list[Demonstration]]) -> list[list[str]]:
    return [[d.id for d in one] for one in found]


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    opened = await Memory.open(tmp_path / "memory", Trigrams(), limit=8)
    yield opened
    await opened.aclose()


async def test_the_nearest_come_first_and_within_the_filters(memory: Memory) -> None:
    await memory.add(
        [
            solved(1, "spell apple backward"),
            solved(2, "spell apples backward"),
            solved(3, "the weekday after Monday", family="calendar"),
            solved(4, "spell apple backward now", environment="other"),
        ]
    )
    query = "spell apple backwards"
    found = await memory.retrieve(
        [
            Query(query),
            Query(query, family="calendar"),
            Query(query, environment="gym", family="gcd"),
            Query("the weekday"),
        ],
        2,
    )
    assert ids(found) == [["d1", "d4"], ["d3"], ["d1", "d2"], ["d3", "d1"]] or ids(found)[1:3] == [["d3"], ["d1", "d2"]]
    assert found[0][0].question == "spell apple backward"
    assert found[3][0].id == "d3"


async def test_the_task_itself_and_its_very_question_are_never_returned(memory: Memory) -> None:
    await memory.add([solved(1, "alpha beta"), solved(2, "alpha  beta "), solved(3, "alpha beta gamma")])
    assert ids(await memory.retrieve([Query("alpha beta")], 3)) == [["d3"]]
    assert ids(await memory.retrieve([Query("alpha beta gam", task_id="t3")], 3)) == [["d1"]]


async def test_one_demonstration_for_each_question_even_behind_many_equal_ones(memory: Memory) -> None:
    many = [solved(i, "one and the same", answer=f"a{i}", environment=f"e{i}") for i in range(40)]
    await memory.add([*many, solved(50, "something else altogether")])
    found = await memory.retrieve([Query("one and the sam")], 2)
    assert ids(found) == [["d0", "d50"]]


async def test_adding_twice_changes_nothing_and_exact_duplicates_are_one(memory: Memory) -> None:
    batch = [solved(1), solved(2), solved(3, solved(2).question, answer="2", task_id="t2")]
    assert (await memory.add(batch)).added == ("d1", "d2")
    assert (await memory.add(batch)).added == ()
    assert await memory.count() == 2


async def test_a_family_keeps_its_limit_and_gives_up_the_older_of_the_most_alike(memory: Memory) -> None:
    words = [
        "zebra crossing",
        "violin sonata",
        "quantum field",
        "apple orchard",
        "mountain hut",
        "river delta",
        "icy fjord",
    ]
    await memory.add([solved(i, text) for i, text in enumerate(words)])
    await memory.add([solved(20, "zebra crossings", round=1), solved(21, "market day", round=1)])
    assert await memory.count() == 8
    [found] = ids(await memory.retrieve([Query("zebra crossing x")], 8))
    assert found[0] == "d20" and "d0" not in found and len(found) == 8
    assert (await memory.add([solved(0, "zebra crossing")])).added == ()


async def test_a_round_sees_what_it_saw_when_it_was_first_run(memory: Memory) -> None:
    questions = [Query(f"What is the gcd of {i} and {i + 3}?") for i in range(10)]
    for round_ in range(4):
        before = ids(await memory.retrieve(questions, 3, before_round=round_))
        assert before == [[]] * 10 if round_ == 0 else all(len(one) == 3 for one in before)
        await memory.add([solved(100 * round_ + i, round=round_) for i in range(1, 7)])
        assert ids(await memory.retrieve(questions, 3, before_round=round_)) == before
    assert await memory.count() == 8  # so rows have been evicted in between


async def test_many_rounds_do_not_make_it_a_swamp(tmp_path: Path) -> None:
    opened = await Memory.open(tmp_path, Trigrams(), limit=30)
    questions = [Query(f"What is the gcd of {i} and {i + 3}?") for i in range(5)]
    sizes: dict[int, int] = {}
    kept: list[str] = []
    for round_ in range(1, 41):
        before = ids(await opened.retrieve(questions, 3, before_round=round_))
        new = [solved(1000 * round_ + i, round=round_) for i in range(30)]
        new += [solved(1000 * round_ + 50 + i, f"lesson {round_} of {i}", round=round_, family="own") for i in range(2)]
        await opened.add(new)
        done = [f"d{1000 * round_ + 50}", f"d{1000 * round_ + 51}"]
        assert await opened.retire(done[:1], round=round_, reason="consolidated") == done[:1]
        assert await opened.retire(done[1:], round=round_, reason="harmful") == done[1:]
        kept.append(done[0])
        assert await opened.count() == 30
        if round_ % 10 == 0:  # cut off and gone on with
            await opened.aclose()
            opened = await Memory.open(tmp_path, Trigrams(), limit=30)
        assert ids(await opened.retrieve(questions, 3, before_round=round_)) == before
        sizes[round_] = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
        assert await opened.check() and opened._index.count() <= 30 + 30 + 2
    # The reversible rows grow by one a round; what had to make room and what did harm is gone but for the last round's.
    assert len(await opened.rows()) == 30 + 30 + len(kept) + 1
    assert max(sizes.values()) < 1.3 * max(size for round_, size in sizes.items() if round_ <= 15)
    assert await opened.restore(kept) == kept and await opened.check()
    [found] = await opened.retrieve([Query("lesson 3 of 0!", family="own")], 1)
    assert found[0].id == kept[2]
    await opened.aclose()


async def test_what_did_harm_is_refused_from_then_on(memory: Memory) -> None:
    await memory.add([solved(1, "alpha", round=1), solved(2, "beta", round=1)])
    await memory.retire(["d1"], round=2, reason="harmful")
    await memory.retire(["d2"], round=2, reason="room")
    again = [solved(1, "alpha", round=3, id="d3"), solved(2, "beta", round=3, id="d4")]
    assert (await memory.add(again)).added == ("d4",)
    assert "d1" not in await memory.rows(), "deleted"
    assert (await memory.add([solved(1, "alpha", round=9, id="d5")])).added == ()


async def test_what_is_retired_for_a_round_long_over_leaves_the_index_and_can_come_back(memory: Memory) -> None:
    await memory.add([solved(1, "alpha", round=5), solved(2, "beta", round=5)])
    await memory.retire(["d1"], round=2, reason="by a person")
    await memory.replace(solved(1, "alpha beta", round=5))
    assert memory._index.count() == 1 and await memory.check()
    await memory.restore(["d1"])
    assert memory._index.count() == 2 and await memory.check()
    assert ids(await memory.retrieve([Query("alpha bet")], 1)) == [["d1"]]


async def test_to_tell_new_items_from_known_ones_does_not_read_all_that_was_ever_forgotten(memory: Memory) -> None:
    rows = [(f"{i:016x}",) for i in range(200_000)]
    with memory._truth._file:
        memory._truth._file.executemany("INSERT INTO forgotten VALUES (?)", [*rows, (solved(7).content,)])
    many = [solved(i) for i in range(100)]
    tracemalloc.start()
    try:
        new = memory._truth.new(many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [one.id for one in new] == [f"d{i}" for i in range(100) if i != 7]
    assert peak < 2**20, "bytes"


async def test_a_query_does_not_depend_on_its_batch(memory: Memory) -> None:
    await memory.add([solved(i, family=f"f{i % 3}") for i in range(1, 20)])
    queries = [Query(f"gcd of {i}?", family=None if i % 2 else f"f{i % 3}", task_id=f"t{i}") for i in range(12)]
    together = await memory.retrieve(queries, 3)
    alone = [(await memory.retrieve([query], 3))[0] for query in queries]
    assert together == alone


async def test_concurrent_use(memory: Memory) -> None:
    batch = [solved(i) for i in range(1, 9)]
    added = await asyncio.gather(*(memory.add(batch) for _ in range(6)), *(memory.add([one]) for one in batch))
    assert sum(len(one.added) for one in added) == 8 == await memory.count()
    assert await memory.check()


async def test_one_owner(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"process {os.getpid()}"):
        await Memory.open(tmp_path / "memory", Trigrams())


async def test_closed_and_impossible_use_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="limit is 0"):
        await Memory.open(tmp_path, Trigrams(), limit=0)
    memory = await Memory.open(tmp_path, Trigrams())
    await memory.aclose()
    await memory.aclose()
    with pytest.raises(UsageError, match="closed"):
        await memory.count()


@pytest.mark.parametrize("harm", ["lost", "missing_row", "garbage"])
async def test_a_harmed_index_is_rebuilt_from_the_truth(tmp_path: Path, harm: str) -> None:
    memory = await Memory.open(tmp_path, Trigrams())
    await memory.add([solved(i) for i in range(1, 20)])
    expected = await memory.retrieve([Query("What is the gcd of 5 and 6?")], 5)
    if harm == "missing_row":
        memory._index._collection.delete(ids=["d7"])
    await memory.aclose()
    chroma = tmp_path / "chroma"
    if harm == "lost":
        for path in sorted(chroma.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    if harm == "garbage":
        (chroma / "chroma.sqlite3").write_bytes(b"not a database" * 1000)
    embedder = Trigrams()
    again = await Memory.open(tmp_path, embedder)
    assert embedder.asked == []  # rebuilt from stored vectors
    assert await again.check()
    assert await again.retrieve([Query("What is the gcd of 5 and 6?")], 5) == expected
    await again.aclose()


async def test_another_embedder_embeds_everything_anew(tmp_path: Path) -> None:
    memory = await Memory.open(tmp_path, Trigrams())
    await memory.add([solved(1), solved(2)])
    await memory.aclose()
    other = Trigrams("other")
    again = await Memory.open(tmp_path, other)
    assert sorted(other.asked) == sorted([solved(1).question, solved(2).question])
    assert ids(await again.retrieve([Query(solved(1).question + "!")], 1)) == [["d1"]]
    await again.aclose()


@pytest.mark.e2e
@pytest.mark.parametrize("moment", ["before_commit", "after_commit", "anywhere"])
async def test_killed_while_adding_truth_and_index_agree_again(tmp_path: Path, moment: str) -> None:
    await asyncio.to_thread(_kill_an_adding_child, tmp_path, moment)
    memory = await Memory.open(tmp_path, Trigrams())
    with sqlite3.connect(tmp_path / "memory.sqlite") as file:
        stored = {row[0] for row in file.execute("SELECT id FROM items")}
    file.close()
    whole = {"before_commit": 20, "after_commit": 40}.get(moment, len(stored))
    assert len(stored) == whole and whole % 20 == 0
    assert await memory.check()
    assert {d.id for d in (await memory.retrieve([Query("gcd")], 500))[0]} == stored
    # The killed addition is simply made again.
    await memory.add([solved(i) for i in range(20, 40)])
    assert await memory.count() == max(len(stored), 40)
    await memory.aclose()


@given(st.integers(2, 12), st.integers(0, 2**16))
@settings(max_examples=30)
def test_what_makes_room_is_part_of_the_closest_pair(n: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    [gone] = least_diverse(matrix, 1)
    alike = np.round(matrix @ matrix.T, 5) - 9 * np.eye(n)
    a, b = np.unravel_index(np.argmax(alike), alike.shape)
    assert gone == min(a, b)
    assert len(set(least_diverse(matrix, n - 1))) == n - 1


def _kill_an_adding_child(directory: Path, moment: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.memory.test_memory_library", str(directory), moment],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    for _ in range(3 if moment == "anywhere" else 1):
        assert child.stdout.readline() == b"added\n"
    if moment == "anywhere":
        child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


async def _child(directory: Path, moment: str) -> None:
    """Add batches of 20 until killed, or kill itself in the middle of the second."""
    memory = await Memory.open(directory, Trigrams())

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for start in range(0, 2000, 20):
        if start == 20 and moment == "after_commit":
            memory._index.put = die  # type: ignore[method-assign, assignment]
        if start == 20 and moment == "before_commit":
            memory._truth._make_room = die  # type: ignore[method-assign, assignment]
        await memory.add([solved(i) for i in range(start, start + 20)])
        print("added", flush=True)


if __name__ == "__main__":
    asyncio.run(_child(Path(sys.argv[1]), sys.argv[2]))
