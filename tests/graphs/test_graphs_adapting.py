"""Test-time training on a finished simulated run: trained for a suite, served under its own number, thrown away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import SimulatedTrainer
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.config import load_config
from autotelic.core.errors import TrainingError, UsageError
from autotelic.core.run_dir import RunDir
from autotelic.graphs import Config, adapting
from autotelic.graphs.adapting import prepared
from autotelic.graphs.refining import answer_suite_by
from autotelic.graphs.session import open_session
from autotelic.graphs.strategy_solver import reached
from autotelic.memory import Demonstration, Query
from autotelic.refinement import build_strategy
from autotelic.store import DeliveryRow, Ledger, PolicyRow, RouteRow, StrategyRow

pytestmark = pytest.mark.e2e

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
    near_rows, vote_rows = ([row for row in rows if row.strategy.startswith(name)] for name in (NEAR, VOTE))
    assert len({row.strategy for row in rows}) == 3 and "for 24 tasks" in near_rows[0].strategy
    assert {row.calls for row in near_rows} == {1}
    assert {row.calls for row in vote_rows} == {4}, "the vote before and the answer's own"
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
        ("adapted(by='neighbours', seconds=1e-06)", "seconds"),
        (NEAR, "nothing was learned"),
    ],
)
def test_where_nothing_can_be_learned_the_policy_answers_as_it_is(
    copied: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, why: str
) -> None:
    monkeypatch.setattr(SimulatedTrainer, "idle", True)
    direct, other = evaluated(copied, f"direct, {strategy}", policy=0)["strategies"]
    ledger = Ledger(copied / "ledger.sqlite")
    assert other["accuracy"] == direct["accuracy"] and other["stopped"] == {why: direct["accuracy"]["n"]}
    assert {row.stopped for row in ledger.rows(StrategyRow) if row.strategy.startswith(strategy)} == {why}
    assert not (copied / "policies" / "adapted").exists()
    ledger.close()


def test_a_vote_that_was_cut_short_is_not_trained_on(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut(*args: Any, **more: Any) -> Any:
        return (await reached(*args, **more)).model_copy(update={"stopped": "seconds"})

    monkeypatch.setattr(adapting, "reached", cut)
    (found,) = evaluated(copied, VOTE, policy=0)["strategies"]
    assert found["stopped"] == {"nothing to train on": 24}


async def test_what_is_near_to_a_suite_is_not_trained_on(copied: Path) -> None:
    run = RunDir(copied)
    async with open_session(load_config(Config, run.config), run) as s:
        tasks = s.ledger.suite("frozen")
        theirs = [Demonstration.of(task) for task in s.ledger.suite("sealed")]  # as if another run's were imported
        await s.memory.add(theirs)
        how = build_strategy("adapted(by='neighbours', k=6)", suite=True)
        async with prepared(s, how, tasks, 0) as made:
            [trained] = s.ledger.rows(PolicyRow, number=made.policy)
            examples = s.run.root / "policies" / "adapted" / "examples.jsonl"
            sources = {json.loads(line)["source"] for line in examples.read_text().splitlines()}
        assert trained.state == "discarded" and sources and not sources & {one.task_id for one in theirs}
        near = await s.memory.retrieve([Query(t.question, t.id, t.environment, t.family) for t in tasks], 6)
        assert {one.id for items in near for one in items} & {one.id for one in theirs}, "else this test shows nothing"


async def test_what_counts_for_the_policy_counts_for_weights_made_from_it(copied: Path) -> None:
    run = RunDir(copied)
    async with open_session(load_config(Config, run.config), run) as s:
        task = s.ledger.suite("frozen")[0]
        made: dict[str, Any] = {"policy": 0, "promoted": True, "routes": {task.family: "self_consistency(n=2)"}}
        s.ledger.add([RouteRow(version=1, learned_on="", proved_on="", choices=[], reasons=[], **made)])
        rows = await answer_suite_by(s, "adapted(auto)", "frozen", 0, 0)
        assert {row.calls for row in rows if row.family == task.family} == {2}, "an answer, and a sample"
        assert all(len(row.drafts) == (2 if row.family == task.family else 0) for row in rows)


def test_it_is_for_suites_stands_outermost_and_has_its_own_budget(copied: Path) -> None:
    for text in ("adapted", "self_consistency(adapted, n=2)"):
        with pytest.raises(UsageError, match="outermost"):
            build_strategy(text)
    with pytest.raises(UsageError, match="outermost"):
        invoke("strategies", "learn", copied, "--strategy", NEAR)
    with pytest.raises(UsageError, match="budget of its own"):
        invoke("eval", copied, "--strategy", NEAR, "--calls", 3)
