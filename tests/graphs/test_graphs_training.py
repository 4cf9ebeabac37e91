"""`autotelic train` on a finished simulated run: each round has a number of its own and comes to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.config import dump_config, load_config
from autotelic.graphs import Config
from autotelic.store import EvaluationRow, GateRow, Ledger, NodeRow


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


def oversee(run: Path, *what: str) -> None:
    config = load_config(Config, run / "config.yaml")
    dump_config(config.model_copy(update={"oversight": what}), run / "config.yaml")


def test_a_round_that_kept_nothing_keeps_its_number(copied: Path) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    ledger.add_suite("fresh", ledger.suite("fresh", round=2), round=3)
    ledger.add([NodeRow(round=3, node=node, done=True, detail={}) for node in ("propose", "curate", "gate")])
    oversee(copied, "training")
    waiting = json.loads(invoke("train", copied, "--json").stdout)
    assert waiting["round"] == 4
    assert json.loads(invoke("train", copied, "--json").stdout) == waiting, "what was begun is gone on with"
    ledger.close()


def test_a_promotion_that_was_cut_off_is_carried_out(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    ledger.crown(0)

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Ledger, "crown", killed)
        invoke("train", copied, "--round", 2)
    assert ledger.rows(GateRow, round=3)[0].promoted and ledger.champion().number == 0
    found = json.loads(invoke("train", copied, "--json").stdout)
    assert (found["round"], found["promoted"]) == (3, True) and ledger.champion().number == found["candidate"] == 3
    assert json.loads(invoke("train", copied, "--json").stdout)["round"] == 4
    ledger.close()


def test_past_failures_without_a_verdict_stop_a_promotion(copied: Path) -> None:
    oversee(copied, "promotion")
    ledger = Ledger(copied / "ledger.sqlite")
    ledger.crown(0)
    round = json.loads(invoke("train", copied, "--round", 2, "--json").stdout)["round"]
    rows = ledger.rows(EvaluationRow, suite="regression", round=round)
    assert rows
    for row in rows:
        row.score = None
        ledger.put(row)
    found = json.loads(invoke("train", copied, "--approve", "--json").stdout)
    assert not found["promoted"] and "regression: not measured" in found["reasons"][0]
    ledger.close()
