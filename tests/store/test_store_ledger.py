from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError

from autotelic.core.errors import StoreError
from autotelic.core.words import Origin, Task
from autotelic.store import CritiqueRow, DeliveryRow, EpisodeRow, Ledger, NodeRow, PolicyRow, SuiteRow, TaskRow


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite")
    yield made
    made.close()


def policy(number: int, state: str = "candidate", **rest: Any) -> PolicyRow:
    return PolicyRow(number=number, round=0, state=state, path=f"policies/{number}", sha256="x", card={}, **rest)


def task(n: int, **rest: Any) -> Task:
    parts = {"environment": "e", "family": f"f{n % 2}", "question": f"{n}?", "key": {"answer": n}, **rest}
    return Task.make(**parts)


def critique(name: str, round: int = 1, **rest: Any) -> CritiqueRow:
    return CritiqueRow(trajectory_id=name, round=round, policy=0, family="f", **rest)


def delivery(policy: int) -> DeliveryRow:
    return DeliveryRow(round=1, policy=policy, kind="train", seconds=0.5, to_trainer=0.01, to_trainer_mean=0.001)


# -- adding


def test_rows_come_back_as_they_went_in(ledger: Ledger) -> None:
    row = EpisodeRow(
        id="e",
        round=2,
        task_id="t",
        family="f",
        policy=1,
        sample=0,
        messages=[{"role": "user", "content": "ü\n'"}],
        bare_messages=[],
        text="x",
        finish_reason="stop",
        token_ids=[1, 2],
        prompt_tokens=3,
        completion_tokens=2,
        reason="wrong",
        memory_ids=["m"],
        seed=2**31 - 1,
    )
    assert ledger.add([row]) == 1
    back = ledger.get(EpisodeRow, "e")
    assert back is not None and back.model_dump() == row.model_dump()
    assert back.score is None, "no verdict is not zero"


def test_a_key_that_is_there_is_left_as_it_is(ledger: Ledger) -> None:
    assert ledger.add([critique("a", verdict="right")]) == 1
    assert ledger.add([critique("a", verdict="wrong"), critique("b")]) == 1
    assert {r.trajectory_id: r.verdict for r in ledger.rows(CritiqueRow)} == {"a": "right", "b": None}


def test_a_key_twice_in_one_call_counts_once(ledger: Ledger) -> None:
    assert ledger.add([critique("a", verdict="right"), critique("a", verdict="wrong")]) == 1
    assert ledger.column(CritiqueRow, "verdict") == ["right"]


def test_rows_of_several_tables_go_in_together_or_not_at_all(ledger: Ledger) -> None:
    broken = critique("b")
    broken.family = None  # type: ignore[assignment]
    with pytest.raises(IntegrityError, match="NOT NULL"):
        ledger.add([critique("a"), policy(1), broken])
    assert ledger.count(CritiqueRow) == 0
    assert ledger.count(PolicyRow) == 0
    assert ledger.add([critique("a"), policy(1)]) == 2


def test_adding_nothing_is_fine(ledger: Ledger) -> None:
    assert ledger.add([]) == 0
    assert ledger.add(row for row in list[CritiqueRow]()) == 0


def test_rows_without_a_key_of_their_own_are_numbered(ledger: Ledger) -> None:
    assert ledger.add([delivery(0), delivery(1)]) == 2
    assert ledger.add([delivery(1)]) == 1
    assert [(r.id, r.policy) for r in ledger.rows(DeliveryRow, order="id")] == [(1, 0), (2, 1), (3, 1)]


def test_what_is_added_is_there_after_the_file_is_opened_again(ledger: Ledger, tmp_path: Path) -> None:
    ledger.add([critique("a")])
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    assert again.count(CritiqueRow) == 1
    again.close()


def test_a_ledger_may_lie_at_any_path(tmp_path: Path) -> None:
    path = tmp_path / "50% a?b #c ü" / "ledger.sqlite"
    path.parent.mkdir()
    ledger = Ledger(path)
    ledger.add([critique("a")])
    ledger.close()
    assert path.stat().st_size > 0
    assert [p.name for p in tmp_path.iterdir()] == [path.parent.name]


# -- transactions


def test_an_exception_rolls_the_whole_session_back(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.session() as session:
        session.add(policy(1))
        session.flush()
        session.add(policy(1 // 0))
    assert ledger.rows(PolicyRow) == []


def test_put_inserts_and_then_replaces(ledger: Ledger) -> None:
    ledger.put(NodeRow(round=1, node="solve", detail={}))
    row = ledger.node(1, "solve")
    row.done, row.attempts, row.detail = True, 2, {"episodes": 3}
    ledger.put(row)
    back = ledger.node(1, "solve")
    assert (back.done, back.attempts, back.detail, ledger.count(NodeRow)) == (True, 2, {"episodes": 3}, 1)


def test_a_node_that_never_ran_is_empty_and_is_not_written(ledger: Ledger) -> None:
    row = ledger.node(4, "train")
    assert (row.round, row.node, row.attempts, row.done, row.detail) == (4, "train", 0, False, {})
    assert ledger.count(NodeRow) == 0


# -- reading


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    ledger.add(critique(f"{round}{name}", round, verdict=verdict) for round in (1, 2) for name, verdict in WORDS)
    return ledger


WORDS = [("c", "right"), ("a", "wrong"), ("b", None)]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({}, ["1a", "1b", "1c", "2a", "2b", "2c"]),
        ({"round": 2}, ["2a", "2b", "2c"]),
        ({"round": 1, "verdict": "right"}, ["1c"]),
        ({"verdict": None}, ["1b", "2b"]),
        ({"verdict": ["right", "wrong"]}, ["1a", "1c", "2a", "2c"]),
        ({"verdict": ("right",), "round": {1, 3}}, ["1c"]),
        ({"trajectory_id": []}, []),
        ({"round": 9}, []),
    ],
    ids=str,
)
def test_filters_mean_the_same_for_rows_column_and_count(
    filled: Ledger, where: dict[str, Any], found: list[str]
) -> None:
    assert [r.trajectory_id for r in filled.rows(CritiqueRow, order="trajectory_id", **where)] == found
    assert sorted(filled.column(CritiqueRow, "trajectory_id", **where)) == found
    assert filled.count(CritiqueRow, **where) == len(found)


def test_rows_come_in_the_order_asked_for(filled: Ledger) -> None:
    rows = filled.rows(CritiqueRow, order=["family", "round", "trajectory_id"], verdict=["right", "wrong"])
    assert [r.trajectory_id for r in rows] == ["1a", "1c", "2a", "2c"]
    assert [r.round for r in filled.rows(CritiqueRow, order=("trajectory_id",))] == [1, 1, 1, 2, 2, 2]


def test_get_finds_by_single_and_by_joint_keys(ledger: Ledger) -> None:
    ledger.add([SuiteRow(suite="fresh", round=2, index=0, task_id="t")])
    found = ledger.get(SuiteRow, "fresh", 2, 0)
    assert found is not None and found.task_id == "t"
    assert ledger.get(SuiteRow, "fresh", 1, 0) is None
    assert ledger.get(PolicyRow, 7) is None


def test_a_row_can_be_read_after_its_session_and_its_ledger_ended(filled: Ledger) -> None:
    row = filled.rows(CritiqueRow, trajectory_id="1a")[0]
    filled.close()
    assert (row.verdict, row.family) == ("wrong", "f")


# -- tasks and suites


def test_tasks_survive_the_ledger_and_are_stored_once(ledger: Ledger) -> None:
    one, two = task(1, answer="1", difficulty=2, seed=5, origin=Origin.REAL), task(2)
    assert ledger.add_tasks([one, two, one]) == 2
    assert ledger.add_tasks([two]) == 0
    assert ledger.tasks([two.id, one.id, two.id, "unknown"]) == {one.id: one, two.id: two}


def test_more_tasks_than_one_query_takes(ledger: Ledger) -> None:
    tasks = [task(n) for n in range(1203)]
    assert ledger.add_tasks(tasks) == 1203
    assert ledger.tasks(t.id for t in tasks) == {t.id: t for t in tasks}


def test_a_suite_keeps_its_order(ledger: Ledger) -> None:
    tasks = [task(n) for n in (5, 3, 9, 1, 11, 7, 0, 2, 4, 6, 8, 10)]
    ledger.add_suite("frozen", tasks)
    ledger.add_suite("fresh", tasks[:2], round=1)
    ledger.add_suite("fresh", tasks[2:5], round=2)
    assert ledger.suite("frozen") == tasks
    assert ledger.suite("fresh", round=1) == tasks[:2]
    assert ledger.suite("fresh", round=2) == tasks[2:5]
    assert ledger.count(TaskRow) == 12
    assert ledger.suite("sealed") == ledger.suite("fresh", round=3) == []


def test_storing_a_suite_again_changes_nothing(ledger: Ledger) -> None:
    tasks = [task(n) for n in range(4)]
    ledger.add_suite("frozen", tasks)
    ledger.add_suite("frozen", tasks)
    assert ledger.suite("frozen") == tasks


# -- policies


def test_a_run_without_a_champion_says_what_to_do(ledger: Ledger) -> None:
    ledger.add([policy(0)])
    with pytest.raises(StoreError, match=r"no champion yet.*Run the same command again"):
        ledger.champion()


def test_crowning_retires_the_one_before(ledger: Ledger) -> None:
    ledger.add([policy(0, "champion"), policy(1), policy(2, "rejected")])
    assert ledger.champion().number == 0
    ledger.crown(1)
    assert ledger.champion().number == 1
    ledger.crown(1)
    states = {row.number: row.state for row in ledger.rows(PolicyRow)}
    assert states == {0: "retired", 1: "champion", 2: "rejected"}


def test_a_rollback_is_crowning_the_old_one(ledger: Ledger) -> None:
    ledger.add([policy(0, "champion"), policy(1)])
    ledger.crown(1)
    ledger.crown(0)
    assert {row.number: row.state for row in ledger.rows(PolicyRow)} == {0: "champion", 1: "retired"}


def test_crowning_nobody_leaves_the_champion(ledger: Ledger) -> None:
    ledger.add([policy(0, "champion")])
    with pytest.raises(StoreError, match=r"there is no policy-3 in the ledger\. See: autotelic policies list"):
        ledger.crown(3)
    assert ledger.champion().number == 0


# -- several writers


def test_threads_write_at_the_same_time_and_nothing_is_lost_or_doubled(ledger: Ledger) -> None:
    start = threading.Barrier(4)
    new: list[int] = []

    def write(mine: int) -> None:
        start.wait()
        new.extend(ledger.add([critique(f"both-{n}"), critique(f"{mine}-{n}")]) for n in range(25))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.count(CritiqueRow) == sum(new) == 5 * 25


def test_a_writer_waits_for_another_one_to_finish(ledger: Ledger, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(ledger.add([critique("a")])))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), "it neither gives up nor goes ahead"
    other.execute("COMMIT")
    thread.join()
    other.close()
    assert done == [1]


WRITE = """
import sys
from pathlib import Path
from autotelic.store import CritiqueRow, Ledger
ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
def rows(n):
    return [CritiqueRow(trajectory_id=f"{w}-{n}", round=1, policy=0, family="f") for w in ("both", sys.argv[2])]
print(sum(ledger.add(rows(n)) for n in range(50)), flush=True)
ledger.close()
"""


def test_processes_write_at_the_same_time_and_nothing_is_lost_or_doubled(ledger: Ledger, tmp_path: Path) -> None:
    env = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", WRITE, str(tmp_path / "ledger.sqlite")]
    writers = [subprocess.Popen([*command, who], env=env, stdin=-1, stdout=-1, text=True) for who in ("one", "two")]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    counts = [int(writer.communicate()[0]) for writer in writers]
    assert ledger.count(CritiqueRow) == sum(counts) == 150


def test_a_writer_that_is_killed_in_a_transaction_leaves_nothing_of_it(ledger: Ledger, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from autotelic.store import CritiqueRow, Ledger
with Ledger(Path(sys.argv[1])).session() as session:
    session.add(CritiqueRow(trajectory_id="half", round=1, policy=0, family="f"))
    session.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {"PYTHONPATH": ":".join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "ledger.sqlite")], env=env)
    assert killed.returncode == -9
    assert ledger.count(CritiqueRow) == 0
    assert ledger.add([critique("half")]) == 1


# -- what a person must mend


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("this is not a database, but a letter to a friend" * 50)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"ledger.sqlite cannot be opened: file is not a database. Is it a ledger\?"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_damaged_ledger_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.add(critique(str(n), fault="x" * 500) for n in range(200))
    ledger.close()
    content = bytearray(path.read_bytes())
    for page in range(60, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    again = Ledger(path)
    with pytest.raises(StoreError, match=r"cannot be used: .*malformed.*Restore a copy"):
        again.rows(CritiqueRow, fault="UNIQUE constraint failed")  # what a model wrote must not decide what it is
    again.close()


def test_a_ledger_in_a_missing_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"missing/ledger.sqlite cannot be opened: unable to open.*Check the path"):
        Ledger(tmp_path / "missing" / "ledger.sqlite")


def test_a_full_disk_stops_the_run_and_keeps_what_was_written(ledger: Ledger) -> None:
    ledger.add([critique("before")])

    def fill(connection: Any, *_: Any) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    ledger.close()  # the next connection is a new one
    event.listen(ledger._engine, "connect", fill)
    with pytest.raises(StoreError, match=r"cannot be used: database or disk is full. Check .* the free disk space"):
        ledger.add(critique(str(n), fault="x" * 4000) for n in range(20))
    assert ledger.column(CritiqueRow, "trajectory_id") == ["before"]


def test_a_read_only_ledger_says_so(ledger: Ledger) -> None:
    ledger.close()
    event.listen(ledger._engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))
    with pytest.raises(StoreError, match="cannot be used: attempt to write a readonly database"):
        ledger.add([critique("a")])
    assert ledger.rows(CritiqueRow) == []


def test_a_ledger_of_another_version_says_so(ledger: Ledger) -> None:
    with ledger.session() as session:
        session.connection().execute(text("ALTER TABLE critique DROP COLUMN advice"))
    with pytest.raises(StoreError, match=r"cannot be used: .*advice"):
        ledger.rows(CritiqueRow)


def test_json_in_the_ledger_is_plain_json(ledger: Ledger) -> None:
    """Other programs read the ledger too."""
    ledger.put(NodeRow(round=1, node="n", detail={"a": [1, None]}))
    with ledger.session() as session:
        raw = session.connection().execute(text("SELECT detail FROM node")).scalar_one()
    assert json.loads(raw) == {"a": [1, None]}
