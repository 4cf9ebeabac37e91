from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotelic.core.errors import StoreError, UsageError
from autotelic.core.run_dir import MIN_FREE_GIB, RunDir

HOLD = """
import sys
from pathlib import Path
from autotelic.core.errors import StoreError
from autotelic.core.run_dir import RunDir
run = RunDir(Path(sys.argv[1]))
try:
    run.acquire()
except StoreError as error:
    print(error, flush=True)
else:
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    made = RunDir(tmp_path / "run").create()
    yield made
    made.release()


def holder(run: RunDir) -> subprocess.Popen[str]:
    """Another process that asks for the lease and holds it until its input ends."""
    env = {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.root)], env=env, stdin=-1, stdout=-1, text=True, start_new_session=True
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# -- the directory


def test_nothing_is_made_before_create(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert not run.root.exists() and not run.exists()


def test_create_makes_the_fixed_parts_and_can_be_repeated(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a" / "run").create().create()
    assert sorted(p.name for p in run.root.iterdir()) == ["logs", "memory", "policies"]
    assert (run.logs, run.memory) == (run.root / "logs", run.root / "memory")


def test_all_parts_lie_inside_so_that_a_copy_is_a_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for part in (run.config, run.ledger, run.checkpoints, run.memory, run.logs, run.policy(3)):
        assert part.is_relative_to(run.root)
    assert run.policy(3).parts[-2:] == ("policies", "policy-3")


def test_a_relative_path_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDir(Path("here"))
    monkeypatch.chdir("/")
    assert run.root == tmp_path / "here"
    assert RunDir(Path("~/x")).root == Path.home() / "x"


def test_a_path_through_a_file_cannot_be_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the run directory .*/file/run cannot be made: .*Choose another with --run"):
        RunDir(tmp_path / "file" / "run").create()


def test_a_run_is_where_a_ledger_is(run: RunDir) -> None:
    with pytest.raises(UsageError, match=r"there is no run in .*/run \(no ledger.sqlite\). Start one with: autotelic"):
        run.require()
    run.ledger.touch()
    assert run.require() is run


# -- the lease


def test_a_second_process_cannot_take_the_lease_until_it_is_given_back(run: RunDir) -> None:
    run.acquire()
    refused = holder(run)
    assert f"is in use by process {os.getpid()}. Wait for it" in refused.communicate()[0]
    run.release()
    with holder(run) as lucky:
        assert first_line(lucky) == "taken"


def test_kill_9_frees_the_lease(run: RunDir) -> None:
    with holder(run) as other:
        assert first_line(other) == "taken"
        with pytest.raises(StoreError, match=f"in use by process {other.pid}"):
            run.acquire()
        other.send_signal(signal.SIGKILL)
        other.wait()
        run.acquire()
    assert (run.root / "lock").read_text() == str(os.getpid())


def test_a_child_process_does_not_keep_the_lease_of_its_parent(run: RunDir) -> None:
    """A server or trainer that outlives a killed run must not lock it."""
    run.acquire()
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE):
        run.release()
        with holder(run) as other:
            assert first_line(other) == "taken"


def test_a_copy_carries_no_lock(run: RunDir, tmp_path: Path) -> None:
    run.acquire()
    copy = RunDir(tmp_path / "copy").create()
    (copy.root / "lock").write_bytes((run.root / "lock").read_bytes())
    copy.acquire()
    copy.release()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database or disk is full")]
)
def test_a_disk_that_fills_up_while_the_lease_is_held_is_a_clear_error(run: RunDir, error: Exception) -> None:
    with pytest.raises(StoreError, match=r"is full or fails \(.*\). Free some space"), run.held():
        raise error
    with holder(run) as other:
        assert first_line(other) == "taken"


def test_other_errors_come_out_of_the_lease_as_they_are(run: RunDir) -> None:
    for error in (UsageError("a key"), FileNotFoundError(errno.ENOENT, "x"), sqlite3.OperationalError("no such table")):
        with pytest.raises(type(error)) as caught, run.held():
            raise error
        assert caught.value is error


def test_release_without_a_lease_does_nothing(run: RunDir) -> None:
    run.release()
    run.acquire()
    run.release()
    run.release()


def test_a_directory_that_cannot_be_locked_says_so(run: RunDir, tmp_path: Path) -> None:
    (run.root / "lock").mkdir()
    with pytest.raises(StoreError, match=r"the run .*/run cannot be locked: .*lock.*choose another directory"):
        run.acquire()
    with pytest.raises(StoreError, match="cannot be locked"):
        RunDir(tmp_path / "missing").acquire()


# -- disk space


def test_there_is_room_for_nothing_and_never_for_everything(run: RunDir) -> None:
    run.require_space(0)
    with pytest.raises(StoreError) as caught:
        run.require_space(1e9)
    assert f" GiB are free in {run.root}, at least 1000000000.00 are needed. Free some space" in str(caught.value)


def test_the_free_space_is_the_file_systems_own(run: RunDir) -> None:
    stat = os.statvfs(run.root)
    assert run.free_gib() == pytest.approx(stat.f_bavail * stat.f_frsize / 2**30, abs=1.0)
    assert MIN_FREE_GIB > 0
