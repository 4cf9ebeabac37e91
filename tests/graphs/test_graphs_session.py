"""A whole session on simulated parts: the ledger is complete, and the report says what the ledger says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.graphs.simulated import SimulatedTrainer, small

from autotelic.core.run_dir import RunDir
from autotelic.environments import solved
from autotelic.graphs.session import open_session
from autotelic.store import (
    CritiqueRow,
    CurationRow,
    DeliveryRow,
    EpisodeRow,
    EvaluationRow,
    ExampleRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    ProposalRow,
    RunRow,
    SuiteRow,
)

CONFIG = small()
NODES = ["propose", "solve", "critique", "curate", "train", "deliver", "evaluate", "gate"]


@pytest.fixture(scope="module")
def ledger(finished: Path) -> Any:
    made = Ledger(finished / "ledger.sqlite")
    yield made
    made.close()


@pytest.fixture(scope="module")
def report(finished: Path) -> Any:
    return json.loads((finished / "report.json").read_text())


def test_every_work_item_is_in_the_ledger_once(ledger: Ledger) -> None:
    for round in (1, 2):
        proposals = ledger.rows(ProposalRow, round=round)
        assert sorted(p.id for p in proposals) == sorted(f"r{round}/propose/{i}" for i in range(CONFIG.propose.tasks))
        tasks = [str(p.task_id) for p in proposals if p.reason == "ok"]
        assert len(set(tasks)) == len(tasks) > 12
        kinds = [("memory", 3), ("bare", 1)] if round > 1 else [("memory", 4)]
        episodes = {f"r{round}/solve/{t}/{kind}/{i}" for t in tasks for kind, n in kinds for i in range(n)}
        assert set(ledger.column(EpisodeRow, "id", round=round)) == episodes
        assert ledger.count(CritiqueRow, round=round) == CONFIG.critique.episodes
        candidates = episodes | {p.id for p in proposals if p.reason == "ok"}
        assert set(ledger.column(CurationRow, "item_id", round=round)) == candidates
        assert ledger.count(GateRow, round=round) == 1
    assert ledger.count(SuiteRow, suite="fresh", round=1) == CONFIG.evaluate.fresh


def test_every_node_is_done_once(ledger: Ledger) -> None:
    rows = ledger.rows(NodeRow)
    assert all(row.done and row.attempts == 1 for row in rows)
    expected = [(0, "prepare"), *[(r, n) for r in (1, 2) for n in NODES], (3, "finish")]
    assert sorted((row.round, row.node) for row in rows) == sorted(expected)


def test_every_answer_is_by_the_policy_that_was_champion(ledger: Ledger) -> None:
    champions = {1: 0, 2: 1}
    for round, champion in champions.items():
        assert set(ledger.column(EpisodeRow, "policy", round=round)) == {champion}
        assert set(ledger.column(CritiqueRow, "policy", round=round)) == {champion}
        assert ledger.rows(GateRow, round=round)[0].champion == champion
    states = {row.number: row.state for row in ledger.rows(PolicyRow)}
    assert states == {0: "retired", 1: "retired", 2: "champion"}
    served: Any = ledger.rows(DeliveryRow, order="id")
    assert [(d.policy, d.kind) for d in served if d.kind in ("start", "train")] == [
        (0, "start"),
        (1, "train"),
        (2, "train"),
    ]
    assert served[-1].policy == 2, "the server is left with the champion"


def test_all_suites_are_answered_by_both_sides_and_sealed_only_at_the_end(ledger: Ledger) -> None:
    sizes: Counter[Any] = Counter((r.suite, r.round, r.policy, r.memory) for r in ledger.rows(EvaluationRow))
    evaluate = CONFIG.evaluate
    regression = ledger.count(SuiteRow, suite="regression", round=2)
    assert regression <= evaluate.regression
    assert sizes == Counter(
        {
            **{("frozen", 0, policy, False): evaluate.frozen for policy in (0, 1, 2)},
            **{("fresh", r, policy, False): evaluate.fresh for r in (1, 2) for policy in (r - 1, r)},
            **{("fresh", r, policy, True): evaluate.two_by_two for r in (1, 2) for policy in (r - 1, r)},
            **{("regression", 2, policy, False): regression for policy in (1, 2)},
            **{("sealed", 0, policy, False): evaluate.sealed for policy in (0, 2)},
        }
    )


def test_the_run_stands_on_its_config_and_a_frozen_model(ledger: Ledger, finished: Path) -> None:
    run = ledger.rows(RunRow)[0]
    assert run.config == CONFIG.model_dump(mode="json") and run.seed == CONFIG.seed
    assert run.model_sha256 and run.outcome == "rounds"
    assert run.finished_at is not None and run.finished_at > run.started_at
    assert (finished / "config.yaml").exists() and (finished / "report.html").read_text().startswith("<!doctype html>")


SIX = {"n": int, "before": float, "after": float, "gain": float, "low": float, "high": float}


def test_the_report_has_what_programs_look_for(report: Any) -> None:
    assert isinstance(report["base"], int) and isinstance(report["champion"], int)
    assert isinstance(report["seconds"], float) and report["seconds"] > 0
    for six in (report["total"], *(r["fresh"] for r in report["rounds"])):
        assert set(six) == set(SIX)
        assert all(isinstance(six[k], int | float) for k in SIX) and isinstance(six["n"], int)
    assert [r["round"] for r in report["rounds"]] == [1, 2]
    for one in report["rounds"]:
        assert one["promoted"] is True
        assert isinstance(one["delivery_seconds"], float)
        assert one["proof"]["to_trainer"] >= 0 and one["proof"]["to_previous"] > 0
        assert all(isinstance(n, int) for n in one["funnel"].values())
        assert set(one["seconds"]) == set(NODES)


def test_the_figures_of_the_report_are_sums_over_rows(report: Any, ledger: Ledger) -> None:
    def share(suite: str, round: int, policy: int) -> float:
        rows = ledger.rows(EvaluationRow, suite=suite, round=round, policy=policy, memory=False)
        return sum(solved(r.score) for r in rows) / len(rows)

    assert (report["base"], report["champion"]) == (0, 2)
    assert report["total"]["n"] == CONFIG.evaluate.sealed
    assert (report["total"]["before"], report["total"]["after"]) == pytest.approx(
        (share("sealed", 0, 0), share("sealed", 0, 2))
    )
    for one in report["rounds"]:
        number = one["round"]
        before, after = share("fresh", number, number - 1), share("fresh", number, number)
        assert (one["fresh"]["before"], one["fresh"]["after"], one["fresh"]["gain"]) == pytest.approx(
            (before, after, after - before)
        )
        fates = Counter("kept" if r.kept else r.reason for r in ledger.rows(CurationRow, round=number))
        assert one["funnel"] == dict(fates)
        assert one["funnel"]["kept"] == ledger.count(ExampleRow, round=number, origin="new")
        delivery = ledger.rows(DeliveryRow, round=number, kind="train")[0]
        assert one["delivery_seconds"] == delivery.seconds and one["proof"]["to_trainer"] == delivery.to_trainer
        assert one["proposer"]["written"] + one["proposer"]["explored"] == CONFIG.propose.tasks
        assert one["seconds"] == {r.node: r.seconds for r in ledger.rows(NodeRow, round=number)}


async def test_a_node_that_is_killed_has_told_its_seconds(
    tmp_path: Path, simulate: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(SimulatedTrainer)
    told: list[float] = []

    async def solve(_: int) -> None:
        told.append(s.ledger.node(1, "solve").seconds)

    async with open_session(CONFIG, RunDir(tmp_path / "run").create()) as s:
        s.round = 1
        monkeypatch.setattr("autotelic.graphs.session.time", SimpleNamespace(monotonic=count(step=6).__next__))
        for _ in range(2):
            async with s.node("solve"):
                await s.each("solve", list(range(4)), solve)
                s.note("solve", {"noted": True})
        assert told[0] == 0 and told == sorted(set(told)), "more each time, and a second attempt adds to the first"
        found = s.ledger.node(1, "solve")
        assert (found.attempts, found.done, found.detail) == (2, True, {"noted": True}) and found.seconds > told[-1]


def test_episodes_do_not_swell_the_checkpoints(finished: Path) -> None:
    import sqlite3

    db = sqlite3.connect(finished / "checkpoints.sqlite")
    nodes = 2 * len(NODES) + 2
    assert db.execute("SELECT count(*), count(DISTINCT checkpoint_ns) FROM checkpoints").fetchone() == (nodes + 2, 1)
    db.close()
