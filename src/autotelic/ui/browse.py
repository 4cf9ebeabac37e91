"""What the browser app reads of a run: page by page out of the ledger, never a whole table.

Pages of trajectories go by their ids: the next page begins after the last id of this one, so that page 2,000 costs
what page 1 does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func
from sqlmodel import col, select

from autotelic.core.run_dir import RunDir
from autotelic.core.words import Frozen, Task
from autotelic.store import (
    AlarmRow,
    ApprovalRow,
    CritiqueRow,
    CurationRow,
    EpisodeRow,
    EvaluationRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    RunRow,
    TaskRow,
    ToolCallRow,
)

__all__ = [
    "Fate",
    "Filter",
    "Listed",
    "NoRun",
    "Progress",
    "Runs",
    "decisions",
    "fates",
    "funnel",
    "holder",
    "listed",
    "newest",
    "page",
    "progress",
    "rounds",
    "trajectory",
    "values",
]

PAGE = 50
"""Rows of a page."""
_PREVIEW = 160
_NODES = ("propose", "solve", "critique", "curate", "train", "deliver", "evaluate", "gate")


class Filter(Frozen):
    """Which trajectories; `None` is any."""

    round: int | None = None
    """Round."""
    family: str | None = None
    """Family of the task."""
    policy: int | None = None
    """Policy that answered."""
    reason: str | None = None
    """How it ended, e.g. `ok`, `wrong`, `no_answer`."""
    right: bool | None = None
    """Whether the checker gave full marks."""
    after: str = ""
    """Id of the last row of the page before."""


class Listed(Frozen):
    """A trajectory in a list."""

    id: str
    """Its id."""
    round: int
    """Round."""
    family: str
    """Family of the task."""
    policy: int
    """Policy."""
    score: float | None
    """Checker's score."""
    reason: str
    """How it ended."""
    question: str
    """Beginning of the task."""
    answer: str
    """Beginning of the answer."""


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
    budget = config.get("seconds")
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
        left=None if budget is None or (row and row.finished_at) else max(0.0, float(budget) - seconds),
        champion=champions[0].number if champions else None,
        alarms=tuple(alarm.message for alarm in ledger.rows(AlarmRow)),
        waiting=ledger.count(ApprovalRow, answer=None),
        answers=ledger.count(EpisodeRow) + ledger.count(EvaluationRow),
        pace=_pace(nodes),
    )


def page(ledger: Ledger, wanted: Filter) -> tuple[list[Listed], str | None, int]:
    """Return a page of trajectories, the id that the next one begins after (`None` at the end), and how many match."""
    conditions = _conditions(wanted)
    ids = select(EpisodeRow.id).where(*conditions, EpisodeRow.id > wanted.after).order_by(EpisodeRow.id).limit(PAGE + 1)
    with ledger.session() as session:
        total = int(session.exec(select(func.count()).select_from(EpisodeRow).where(*conditions)).one())
        found = list(session.exec(ids).all())
    shown, more = found[:PAGE], len(found) > PAGE
    return listed(ledger, shown), shown[-1] if more else None, total


def newest(ledger: Ledger, most: int) -> list[str]:
    """Return the ids of at most so many trajectories, those of the newest rounds first."""
    asked = select(EpisodeRow.id).order_by(col(EpisodeRow.round).desc(), col(EpisodeRow.id)).limit(most)
    with ledger.session() as session:
        return list(session.exec(asked).all())


def listed(ledger: Ledger, ids: list[str]) -> list[Listed]:
    """Return these trajectories as a list shows them, in this order."""
    rows = ledger.columns(
        EpisodeRow,
        "id",
        "round",
        "family",
        "policy",
        "score",
        "reason",
        "answer",
        "text",
        "task_id",
        id=ids,
    )
    questions = dict(ledger.columns(TaskRow, "id", "question", id=[row[8] for row in rows]))
    found = [
        Listed(
            id=row[0], round=row[1], family=row[2], policy=row[3], score=row[4], reason=row[5],
            question=_short(questions.get(row[8], "")), answer=_short(row[6] if row[6] is not None else row[7]),
        )
        for row in rows
    ]  # fmt: skip
    return sorted(found, key=lambda one: ids.index(one.id))


def values(ledger: Ledger) -> dict[str, list[Any]]:
    """Return what trajectories can be filtered by: the values that occur, by column."""
    with ledger.session() as session:
        return {
            name: sorted(session.exec(select(getattr(EpisodeRow, name)).distinct()).all())
            for name in ("round", "family", "policy", "reason")
        }


def trajectory(ledger: Ledger, id: str) -> dict[str, Any] | None:
    """Return all that is known of one trajectory: its row, task, calls, critiques, fate; `None` if there is none."""
    row = ledger.get(EpisodeRow, id)
    if row is None:
        return None
    task: Task | None = ledger.tasks([row.task_id]).get(row.task_id)
    return {
        "row": row,
        "task": task,
        "calls": ledger.rows(ToolCallRow, owner=id, order="index"),
        "critiques": ledger.rows(CritiqueRow, trajectory_id=id),
        "fates": ledger.rows(CurationRow, item_id=id),
    }


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


def _conditions(wanted: Filter) -> list[Any]:
    equal = wanted.model_dump(exclude={"after", "right"}, exclude_none=True)
    conditions: list[Any] = [getattr(EpisodeRow, name) == value for name, value in equal.items()]
    if wanted.right is not None:
        full = EpisodeRow.score == 1.0
        conditions.append(full if wanted.right else (EpisodeRow.score < 1.0))  # type: ignore[operator]
    return conditions


def holder(run: RunDir) -> int | None:
    """Return the process that holds the run's lease, `None` if none does.

    The lock is not asked for: who begins just then would be refused. Where the system does not tell (it is Linux that
    does), nobody is seen to hold it.
    """
    try:
        inode = (run.root / "lock").stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    held = [line.split() for line in lines if " FLOCK " in line and " -> " not in line and f":{inode} " in line]
    return int(held[0][4]) if held else None


def _pace(nodes: list[NodeRow]) -> float | None:
    done = [node for node in nodes if node.node == "solve" and node.done]
    seconds = sum(node.seconds for node in done)
    return sum(float(node.detail.get("episodes", 0)) for node in done) / seconds if seconds else None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _PREVIEW else line[: _PREVIEW - 1] + "…"
