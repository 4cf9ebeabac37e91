"""The report of a run: `report.json` for programs, `report.html` for people, both made of ledger rows and nothing else.

`build_report` computes every figure; the page only lays them out, so the two can never disagree. Intervals are drawn
with the run's own seed: a report made again, anywhere, is the same.
"""

from __future__ import annotations

import json
from pathlib import Path

from autotelic.core.files import write_whole
from autotelic.core.run_dir import RunDir
from autotelic.core.words import PolicyState
from autotelic.evaluation import _sections
from autotelic.evaluation._page import render
from autotelic.evaluation._sections import Json, Source
from autotelic.evaluation.baselines import overall_baseline
from autotelic.evaluation.measure import compare_policies, critic_gap, two_by_two
from autotelic.store import (
    AlarmRow,
    DeliveryRow,
    ExampleRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    ProposalRow,
    RunRow,
)

__all__ = ["SOURCES", "build_progress", "build_report", "write_report"]

MAX_SAMPLED_ROUNDS = 50
"""Rounds that show sample trajectories; of a longer run as many, evenly spread, first and last among them."""

_POLICY = {"number", "parent", "round", "state", "method", "sha256"}
_OUTSIDE = {"prepare", "finish"}  # nodes that belong to the run, not to a round

SOURCES: dict[str, str] = {
    "total": "evaluation where suite = 'sealed' and memory = 0, base and champion paired by task_id",
    "rounds.fresh": "evaluation where suite = 'fresh' and memory = 0, gate's champion and candidate, paired by task_id",
    "rounds.suites": "evaluation by suite and policy (frozen: round 0); constant: task.answer over the suite's tasks",
    "rounds.two_by_two": "evaluation where suite = 'fresh', tasks answered by both policies with memory 0 and 1",
    "rounds.promoted, rounds.reasons": "gate",
    "rounds.delivery_seconds, rounds.proof": "delivery where kind = 'train' and policy = the candidate",
    "rounds.funnel": "curation by kept and reason",
    "rounds.tools": "tool_call by tool and reason, where owner is an episode",
    "rounds.refinement": "refinement and, for its flips, episode.score",
    "rounds.proposer": "proposal where origin = 'proposer'; new: task_id is set; valid: new or reason = 'duplicate'",
    "rounds.solver": "episode by family and task_id",
    "rounds.gap": "critique (verdict, confidence, truth), solver's rate from episode.score",
    "rounds.seconds": "node.seconds",
    "seconds": "run.finished_at - run.started_at; while the run goes on, the sum of node.seconds",
    "families": "evaluation and task.answer of the sealed suite (before it is opened: of the newest fresh suite)",
}
"""Where each figure of the report comes from: tables and columns of the ledger."""


def build_report(ledger: Ledger) -> Json:
    """Compute the report of a run from its ledger; it may still be going on, or have stopped anywhere.

    Returns:
        JSON data. Figures that were not measured are `None`.
    """
    run = next(iter(ledger.rows(RunRow)), None)
    policies = ledger.rows(PolicyRow, order="number")
    base = policies[0].number if policies else 0
    champion = next((p.number for p in policies if p.state == PolicyState.CHAMPION.value), base)
    confidence = _confidence(run)
    total = compare_policies(ledger, "sealed", 0, base, champion, confidence=confidence)
    source = Source.of(ledger, confidence)
    rounds = _rounds(source)
    return {
        "base": base,
        "champion": champion,
        "seconds": _seconds(ledger, run),
        "total": total.six() if total else None,
        "rounds": rounds,
        "confidence": confidence,
        "total_detail": total.model_dump() if total else None,
        "total_constant": overall_baseline(source.constants("sealed", 0)) if total else None,
        "families": _families(source, base, champion, rounds, sealed=bool(total)),
        "policies": [
            p.model_dump(include={"number", "parent", "round", "state", "method", "sha256"}) for p in policies
        ],
        "deliveries": [
            row.model_dump(include={"round", "policy", "previous", "kind", "seconds", "to_trainer", "to_previous"})
            for row in ledger.rows(DeliveryRow, order="id")
        ],
        "alarms": [row.model_dump() for row in ledger.rows(AlarmRow, order=("round", "name"))],
        "outside_seconds": _outside_seconds(ledger),
        "run": _run(run),
        "sources": SOURCES,
    }


def build_progress(ledger: Ledger) -> Json:
    """Compute the part of a report that says how a session is doing: what its gate measured, and its alarms.

    It reads what rounds were measured on and no trajectory, so that it may be asked for again and again.
    """
    source = Source.of(ledger, _confidence(next(iter(ledger.rows(RunRow)), None)))
    return {
        "confidence": source.confidence,
        "rounds": [_measured(source, number) for number in sorted(ledger.column(GateRow, "round"))],
        "alarms": [row.model_dump() for row in ledger.rows(AlarmRow, order=("round", "name"))],
    }


def write_report(run_dir: Path, ledger: Ledger | None = None) -> Json:
    """Write `report.json` and `report.html` into a run's directory, each in one step, and return the data.

    Args:
        run_dir: the run's directory.
        ledger: its ledger, where it is not the SQLite file in the directory.

    Raises:
        UsageError: there is no run in the directory.
    """
    source = ledger or Ledger(RunDir(run_dir).require().ledger)
    try:
        report = build_report(source)
    finally:
        if ledger is None:
            source.close()
    write_whole(run_dir / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(run_dir / "report.html", render(report))
    return report


def _rounds(source: Source) -> list[Json]:
    ledger = source.ledger
    numbers = set(ledger.column(ProposalRow, "round")) | {row.round for row in ledger.rows(GateRow)}
    numbers |= {row.round for row in ledger.rows(NodeRow) if row.node not in _OUTSIDE}
    ordered = sorted(numbers)
    sampled = set(_spread(ordered, MAX_SAMPLED_ROUNDS))
    return [_round(source, number, with_samples=number in sampled) for number in ordered]


def _round(source: Source, number: int, *, with_samples: bool) -> Json:
    ledger = source.ledger
    measured = _measured(source, number)
    gap = critic_gap(ledger, number, confidence=source.confidence)
    seconds, proof = _sections.delivery(ledger, number, measured["candidate"])
    six = ("n", "before", "after", "gain", "low", "high")
    fresh = measured["suites"].get("fresh")
    origins: list[str] = ledger.column(ExampleRow, "origin", round=number)
    return {
        **measured,
        "fresh": {k: fresh["comparison"][k] for k in six} if fresh else None,
        "delivery_seconds": seconds,
        "proof": proof,
        "funnel": _sections.funnel(ledger, number),
        "tools": _sections.tools(ledger, number),
        "refinement": _sections.refinement(ledger, number),
        "seconds": {k: v for k, v in _sections.seconds(ledger, number).items() if k not in _OUTSIDE},
        "gap": gap.model_dump() if gap else None,
        "proposer": _sections.proposer(ledger, number),
        "solver": _sections.solver(ledger, number),
        "examples": {origin: origins.count(origin) for origin in sorted(set(origins))},
        "samples": _sections.samples(ledger, number) if with_samples else [],
    }


def _measured(source: Source, number: int) -> Json:
    """What the gate of a round looked at and decided."""
    ledger, gate = source.ledger, source.ledger.get(GateRow, number)
    suites = _sections.suites(source, number, gate.champion, gate.candidate) if gate else {}
    cells = two_by_two(ledger, number, gate.champion, gate.candidate, confidence=source.confidence) if gate else None
    return {
        "round": number,
        "promoted": bool(gate and gate.promoted),
        "champion": gate.champion if gate else None,
        "candidate": gate.candidate if gate else None,
        "reasons": list(gate.reasons) if gate else [],
        "suites": suites,
        "two_by_two": {k: e.model_dump() if e else None for k, e in cells.items()} if cells else None,
    }


def _families(source: Source, base: int, champion: int, rounds: list[Json], *, sealed: bool) -> Json | None:
    """Accuracy by family, on `sealed` once it is open, before that on the newest fresh suite."""
    if sealed:
        rows = _sections.by_family(source, "sealed", 0, base, champion)
        return {"suite": "sealed", "round": 0, "before": base, "after": champion, "rows": rows}
    decided = [r for r in rounds if r["fresh"] is not None]
    if not decided:
        return None
    number, before, after = (decided[-1][k] for k in ("round", "champion", "candidate"))
    rows = _sections.by_family(source, "fresh", number, before, after)
    return {"suite": "fresh", "round": number, "before": before, "after": after, "rows": rows}


def _confidence(run: RunRow | None) -> float:
    gate = (run.config if run else {}).get("gate") or {}
    return float(gate.get("confidence", 0.95))


def _seconds(ledger: Ledger, run: RunRow | None) -> float:
    if run is not None and run.finished_at is not None:
        return run.finished_at - run.started_at
    return float(sum(row.seconds for row in ledger.rows(NodeRow)))


def _outside_seconds(ledger: Ledger) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in ledger.rows(NodeRow, node=sorted(_OUTSIDE), order="round"):
        found[row.node] = found.get(row.node, 0.0) + row.seconds
    return found


def _run(run: RunRow | None) -> Json:
    return run.model_dump() if run else {}


def _spread(items: list[int], n: int) -> list[int]:
    if len(items) <= n:
        return items
    return [items[i * (len(items) - 1) // (n - 1)] for i in range(n)]
