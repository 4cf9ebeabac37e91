"""Test-time training on a finished simulated run: trained for a suite, served under its own number, thrown away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import SimulatedTrainer
from tests.refinement.kit import Model, in_turn, work
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.errors import TrainingError, UsageError
from autotelic.refinement import answer_task, build_strategy
from autotelic.store import DeliveryRow, Ledger, PolicyRow, StrategyRow

NEAR, VOTE = "adapted(by='neighbours')", "adapted(self_consistency(n=3, batch=3), by='vote', n=4, agreement=0.75)"


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


def evaluated(run: Path, strategies: str, **options: Any) -> Any:
    more = [part for name, value in options.items() for part in (f"--{name}", value)]
    return json.loads(invoke("eval", run, "--strategy", strategies, *more, "--json").stdout)


def test_a_policy_is_trained_for_a_suite_and_thrown_away(copied: Path) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    champion, before = ledger.champion().number, max(ledger.column(PolicyRow, "number"))
    # The base has the most to learn from what it remembers.
    found = evaluated(copied, f"direct, {NEAR}, {VOTE}", policy=0)
    direct, near, _ = found["strategies"]
    assert near["gain"]["low"] > 0 and near["accuracy"]["mean"] > direct["accuracy"]["mean"] + 0.2
    made = [row for row in ledger.rows(PolicyRow, order="number") if row.number > before]
    assert [(row.number, row.parent, row.state) for row in made] == [
        (before + 1, 0, "discarded"),
        (before + 2, 0, "discarded"),
    ]
    assert [row.card["by"] for row in made] == ["neighbours", "vote"] and all(row.card["examples"] for row in made)
    assert not (copied / "policies" / "adapted").exists() and ledger.champion().number == champion
    deliveries = ledger.rows(DeliveryRow, order="id")[-4:]
    assert [(row.policy, row.kind) for row in deliveries] == [
        (before + 1, "train"),
        (0, "switch"),
        (before + 2, "train"),
        (0, "switch"),
    ]
    rows = ledger.rows(StrategyRow, policy=0)
    assert len(rows) == 3 * found["n"], "they stand under the policy that was adapted"
    near_rows, vote_rows = ([row for row in rows if row.strategy == name] for name in (NEAR, VOTE))
    assert {row.calls for row in near_rows} == {1}
    assert {row.calls for row in vote_rows} == {2}, "the vote before and the answer's own"
    ledger.close()
    assert evaluated(copied, f"direct, {NEAR}, {VOTE}", policy=0)["strategies"] == found["strategies"], "once is enough"
    assert "discarded" in invoke("policies", "list", copied).stdout
    with pytest.raises(UsageError, match="thrown away"):
        invoke("policies", "promote", copied, before + 1)


def test_what_was_cut_off_is_begun_again_and_nothing_stays(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedTrainer, "fail", "the disk is full")
    with pytest.raises(TrainingError, match="the disk is full"):
        evaluated(copied, NEAR, policy=0)
    ledger = Ledger(copied / "ledger.sqlite")
    assert not ledger.rows(StrategyRow) and not (copied / "policies" / "adapted").exists()
    (copied / "policies" / "adapted" / "policy").mkdir(parents=True)  # what a killed process leaves
    monkeypatch.setattr(SimulatedTrainer, "fail", None)
    assert evaluated(copied, NEAR, policy=0)["strategies"][0]["accuracy"]["n"] == ledger.count(StrategyRow)
    ledger.close()


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("adapted(by='vote', agreement=1.0, n=60)", "nothing to train on"),
        ("adapted(by='vote', n=8, agreement=0.0, seconds=0.0001)", "seconds"),
        (NEAR, "nothing was learned"),
    ],
)
def test_where_nothing_can_be_learned_the_policy_answers_as_it_is(
    copied: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, why: str
) -> None:
    monkeypatch.setattr(SimulatedTrainer, "idle", True)
    direct, other = evaluated(copied, f"direct, {strategy}", policy=0)["strategies"]
    ledger = Ledger(copied / "ledger.sqlite")
    assert other["accuracy"] == direct["accuracy"] and other["stopped"] == direct["accuracy"]["n"]
    assert {row.stopped for row in ledger.rows(StrategyRow, strategy=strategy)} == {why}
    assert not (copied / "policies" / "adapted").exists()
    ledger.close()


async def test_it_is_for_suites_and_stands_outermost() -> None:
    for text in ("adapted", "self_consistency(adapted, n=2)"):
        with pytest.raises(UsageError, match="outermost"):
            await answer_task(build_strategy(text), work(Model(in_turn("6"))))
