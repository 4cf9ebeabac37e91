"""What the browser app reads of a run, page by page out of the ledger; trajectories are in a module of their own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func
from sqlmodel import col, select

from autotelic.core.run_dir import RunDir
from autotelic.core.words import Frozen
from autotelic.store import (
    AlarmRow,
    ApprovalRow,
    CurationRow,
    EpisodeRow,
    EvaluationRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    RunRow,
)

__all__ = [
    "Fate",
    "NoRun",
    "Progress",
    "Runs",
    "decisions",
    "fates",
    "funnel",
    "holder",
    "progress",
    "rounds",
]

PAGE = 50
"""Rows of a page."""
_NODES = ("propose", "solve", "critique", "curate", "train", "deliver", "evaluate", "gate")


class Fate(Frozen):
    """What became of an item in curation."""

    item: str
    """Trajectory or proposal."""
    role: str
    """Role it would train."""
    family: str
    """Family."""
    kept: bool
    """Whether it was kept."""
    reason: str
    """Why, or why not."""
    detail: str
    """With figures."""


class Progress(Frozen):
    """How far a session is."""

    name: str
    """Directory's name."""
    running: bool
    """Whether a process holds its lease."""
    outcome: str | None
    """How it ended, `None` while it has not."""
    round: int
    """Round it is in."""
    rounds: int
    """Rounds it may have."""
    node: str
    """What it is doing, or did last."""
    done: int
    """Nodes of the round that are done."""
    nodes: int
    """Nodes of a round."""
    seconds: float
    """Since it began, or what it took."""
    left: float | None
    """Seconds left of its budget of time, `None` without one."""
    champion: int | None
    """Number of the champion."""
    alarms: tuple[str, ...] = ()
    """What rang."""
    waiting: int = 0
    """Requests that wait for a person."""
    answers: int = 0
    """Trajectories and answers to suites so far."""
    pace: float | None = None
    """Trajectories a second while solving, over what is done; `None` before."""


class NoRun(Exception):
    """There is no run of that name."""


@dataclass(frozen=True)
class Runs:
    """The runs in a directory."""

    root: Path
    """The directory."""

    def names(self) -> list[str]:
        """Return the runs' names, the one that was written to last first."""
        found = [path for path in self.root.glob("*/ledger.sqlite") if not path.parent.is_symlink()]
        return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]

    def open(self, name: str) -> RunDir | None:
        """Return a run by its name, `None` if there is none. A name is never a path."""
        return RunDir(self.root / name) if name in self.names() else None


def progress(run: RunDir, ledger: Ledger) -> Progress:
    """Return how far a session is."""
    row = next(iter(ledger.rows(RunRow)), None)
    nodes = ledger.rows(NodeRow, order=("round",))
    config = row.config if row else {}
    latest = max((node.round for node in nodes if node.node in _NODES), default=0)
    here = {node.node: node for node in nodes if node.round == latest}
    done = [name for name in _NODES if name in here and here[name].done]
    begun = [name for name in _NODES if name in here and not here[name].done]
    started = row.started_at if row else time.time()
    seconds = (row.finished_at if row and row.finished_at else time.time()) - started
    budget, spent = config.get("seconds"), sum(node.seconds for node in nodes)  # as the session counts it
    champions = ledger.rows(PolicyRow, state="champion")
    return Progress(
        name=run.root.name,
        running=holder(run) is not None,
        outcome=row.outcome if row else None,
        round=latest,
        rounds=int(config.get("rounds") or 0),
        node=begun[-1] if begun else done[-1] if done else "start",
        done=len(done),
        nodes=len(_NODES),
        seconds=seconds,
        left=None if budget is None or (row and row.finished_at) else max(0.0, float(budget) - spent),
        champion=champions[0].number if champions else None,
        alarms=tuple(alarm.message for alarm in ledger.rows(AlarmRow)),
        waiting=ledger.count(ApprovalRow, answer=None),
        answers=ledger.count(EpisodeRow) + ledger.count(EvaluationRow),
        pace=_pace(nodes),
    )


def funnel(ledger: Ledger, round: int) -> list[tuple[str, str, int]]:
    """Return role, reason and number of the items of a round, the kept first."""
    kinds = (col(CurationRow.role), col(CurationRow.reason), col(CurationRow.kept))
    counted = select(*kinds, func.count()).where(CurationRow.round == round).group_by(*kinds)
    with ledger.session() as session:
        rows = session.exec(counted).all()
    ordered = sorted(rows, key=lambda row: (row[0], not row[2], -row[3]))
    return [(role, reason, int(count)) for role, reason, _, count in ordered]


def fates(ledger: Ledger, round: int, reason: str | None, after: str = "") -> tuple[list[Fate], str | None]:
    """Return a page of what became of a round's items, and the item that the next one begins after."""
    conditions = [CurationRow.round == round, CurationRow.item_id > after]
    if reason is not None:
        conditions.append(CurationRow.reason == reason)
    with ledger.session() as session:
        asked = select(CurationRow).where(*conditions).order_by(CurationRow.item_id).limit(PAGE + 1)
        rows = list(session.exec(asked).all())
    shown = [
        Fate(item=r.item_id, role=r.role, family=r.family, kept=r.kept, reason=r.reason, detail=r.detail)
        for r in rows[:PAGE]
    ]
    return shown, shown[-1].item if len(rows) > PAGE else None


def rounds(ledger: Ledger) -> list[int]:
    """Return the rounds that have curated items."""
    with ledger.session() as session:
        return sorted(session.exec(select(CurationRow.round).distinct()).all())


def decisions(ledger: Ledger) -> list[GateRow]:
    """Return the gate's decisions, the latest first."""
    return ledger.rows(GateRow, order="round")[::-1]


def holder(run: RunDir) -> int | None:
    """Return the process that holds the run's lease, `None` if none does.

    The lock is not asked for: who begins just then would be refused. Where the system does not tell (it is Linux that
    does), nobody is seen to hold it. Its word is compared with what the holder has written down: a file of another
    disk may have the same number. One from another container (below 1) is nobody that could be told apart.
    """
    try:
        inode, written = (run.root / "lock").stat().st_ino, (run.root / "lock").read_text()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    held = [line.split() for line in lines if " FLOCK " in line and " -> " not in line and f":{inode} " in line]
    return next((int(one[4]) for one in held if int(one[4]) < 1 or one[4] == written), None)


def _pace(nodes: list[NodeRow]) -> float | None:
    done = [node for node in nodes if node.node == "solve" and node.done]
    seconds = sum(node.seconds for node in done)
    return sum(float(node.detail.get("episodes", 0)) for node in done) / seconds if seconds else None
