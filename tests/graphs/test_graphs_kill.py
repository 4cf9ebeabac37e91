"""Killed at every node, interrupted, without disk: in the end the ledger is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import snapshot

from autotelic.store import Ledger, NodeRow, RunRow

pytestmark = pytest.mark.e2e  # the model is simulated, the processes are not: a minute of killing and beginning again

DRIVER = Path(__file__).with_name("driver.py")
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
NODES = ["propose", "solve", "critique", "curate", "train", "deliver", "evaluate", "gate"]

POINTS: list[tuple[int, str, int | str]] = [
    *[(0, "prepare", moment) for moment in (0, 1, 2, 3, 5, "done")],
    *[(1, node, moment) for node in NODES for moment in (1, "done")],
    *[(1, node, moment) for node in ("train", "curate", "gate") for moment in (0, "end")],
    *[(1, node, 2) for node in ("solve", "critique", "curate", "gate")],
    *[(1, "propose", moment) for moment in (3, 4, 5)],
    *[(1, "evaluate", moment) for moment in (4, 9)],
    *[(2, node, "end") for node in NODES],
    *[(3, "finish", moment) for moment in (1, "end", "done")],
]


def test_killed_at_every_node_the_ledger_is_the_same(finished: Path, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    command = [sys.executable, str(DRIVER), str(run), str(model), json.dumps(POINTS)]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]

    deaths = [tuple(json.loads(line)) for line in run.with_suffix(".deaths").read_text().splitlines()]
    assert sorted(map(str, deaths)) == sorted(map(str, POINTS)), "it died once at each point"

    undisturbed, disturbed = snapshot(finished / "ledger.sqlite"), snapshot(run / "ledger.sqlite")
    assert disturbed.keys() == undisturbed.keys()
    for table, rows in undisturbed.items():
        assert disturbed[table] == rows, table

    ledger = Ledger(run / "ledger.sqlite")
    attempts = {(row.round, row.node): row.attempts for row in ledger.rows(NodeRow)}
    per_node: dict[Any, int] = {}
    for round, node, _ in deaths:
        per_node[round, node] = per_node.get((round, node), 0) + 1
    assert attempts == {key: per_node.get(key, 0) + 1 for key in attempts}
    assert ledger.rows(RunRow)[0].finished_at is not None
    ledger.close()

    killed, smooth = (json.loads((root / "report.json").read_text()) for root in (run, finished))
    for key in ("base", "champion", "total", "families"):
        assert killed[key] == smooth[key]
    assert [r["fresh"] for r in killed["rounds"]] == [r["fresh"] for r in smooth["rounds"]]
    assert all(r["proof"]["to_previous"] > 0 for r in killed["rounds"]), "the proof has both halves after a kill too"


def _command(model: Path, config: Path, run: Path) -> list[str]:
    return [sys.executable, str(DRIVER), "--cli", str(model), "self-play", str(config), "--run", str(run)]


def _goes_on(command: list[str], run: Path, finished: Path) -> None:
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert snapshot(run / "ledger.sqlite") == snapshot(finished / "ledger.sqlite")


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(finished: Path, model: Path, tmp_path: Path) -> None:
    command = _command(model, finished / "config.yaml", run := tmp_path / "run")
    # A shell in the background starts its children deaf to Ctrl-C.
    hearing = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=hearing) as running:
        assert running.stderr is not None
        said = [line for line in iter(running.stderr.readline, "") if not _interrupt(line, running)]
    assert running.returncode == 130
    assert said[-1] == "autotelic: interrupted. The same command goes on where it stopped.\n"
    assert not any("Traceback" in line for line in said)
    _goes_on(command, run, finished)


def _interrupt(line: str, running: subprocess.Popen[str]) -> bool:
    """Press Ctrl-C when the first round's solving is said to be done."""
    if line.strip().startswith("solve:"):
        running.send_signal(signal.SIGINT)
        return True
    return False


@pytest.mark.parametrize("kib", [60, 500])
def test_a_file_that_cannot_grow_is_one_line_and_nothing_is_lost(
    finished: Path, model: Path, tmp_path: Path, kib: int
) -> None:
    """The system's limit on a file's size stands for the full disk: writes fail in the middle of the run."""
    command = _command(model, finished / "config.yaml", run := tmp_path / "run")
    limited = ["bash", "-c", f'ulimit -f {kib}; exec "$@"', "bash", *command]
    ended = subprocess.run(limited, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr and "free disk space" in ended.stderr.splitlines()[-1]
    _goes_on(command, run, finished)
