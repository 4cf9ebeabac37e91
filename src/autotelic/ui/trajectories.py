"""A run's trajectories as the browser app reads them: page by page out of the ledger, never a whole table.

Pages go by ids: the next page begins after the last id of this one, so that page 2,000 costs what page 1 does.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from sqlalchemy import ColumnElement, func, or_
from sqlmodel import SQLModel, col, select

from autotelic.core.words import Frozen, Task
from autotelic.store import (
    CritiqueRow,
    CurationRow,
    EpisodeRow,
    Ledger,
    ProposalRow,
    RefinementRow,
    TaskRow,
    ToolCallRow,
)
from autotelic.ui.browse import PAGE

__all__ = ["ROLES", "Filter", "Listed", "listed", "newest", "page", "trajectory", "values"]

_TABLES: dict[str, type[SQLModel]] = {"solver": EpisodeRow, "proposer": ProposalRow, "critic": CritiqueRow}
ROLES = tuple(_TABLES)
"""Who writes what is kept as text."""
_KEYS = {"solver": "id", "proposer": "id", "critic": "trajectory_id"}
_PREVIEW = 160
_MOST = 10**9  # no run has as many rounds or policies, and a ledger can be asked for it


class Filter(Frozen):
    """Which trajectories; `None` is any."""

    role: Literal["solver", "proposer", "critic"] = "solver"
    """Who wrote it."""
    round: int | None = Field(default=None, ge=0, le=_MOST)
    """Round."""
    family: str | None = None
    """Family of the task."""
    policy: int | None = Field(default=None, ge=0, le=_MOST)
    """Policy that answered."""
    reason: str | None = None
    """How it ended, e.g. `ok`, `wrong`, `no_answer`."""
    right: bool | None = None
    """Whether an answer has full marks, a proposal became a task, a critic said what the checker says."""
    after: str = ""
    """Id of the last row of the page before."""


class Listed(Frozen):
    """A trajectory in a list."""

    id: str
    """Its id; a critic's is the id of what it judged."""
    round: int
    """Round."""
    family: str
    """Family of the task."""
    policy: int
    """Policy."""
    score: float | None
    """1 where it is right in the sense of `Filter`, an answer's score by the checker."""
    reason: str
    """How it ended."""
    question: str
    """Beginning of the task."""
    answer: str
    """Beginning of what was said."""


def page(ledger: Ledger, wanted: Filter) -> tuple[list[Listed], str | None, int]:
    """Return a page of trajectories, the id that the next one begins after (`None` at the end), and how many match."""
    table, key = _TABLES[wanted.role], getattr(_TABLES[wanted.role], _KEYS[wanted.role])
    conditions = _conditions(wanted)
    ids = select(key).where(*conditions, key > wanted.after).order_by(key).limit(PAGE + 1)
    with ledger.session() as session:
        total = int(session.exec(select(func.count()).select_from(table).where(*conditions)).one())
        found = list(session.exec(ids).all())
    shown, more = found[:PAGE], len(found) > PAGE
    return listed(ledger, shown, wanted.role), shown[-1] if more else None, total


def newest(ledger: Ledger, most: int) -> list[str]:
    """Return the ids of at most so many of the solver's trajectories, those of the newest rounds first."""
    asked = select(EpisodeRow.id).order_by(col(EpisodeRow.round).desc(), col(EpisodeRow.id)).limit(most)
    with ledger.session() as session:
        return list(session.exec(asked).all())


def listed(ledger: Ledger, ids: list[str], role: str = "solver") -> list[Listed]:
    """Return these trajectories as a list shows them, in this order."""
    make = {"solver": _answers, "proposer": _proposals, "critic": _critiques}[role]
    return sorted(make(ledger, ids), key=lambda one: ids.index(one.id))


def values(ledger: Ledger, role: str = "solver") -> dict[str, list[Any]]:
    """Return what a role's trajectories can be filtered by: the values that occur, by column."""
    with ledger.session() as session:
        return {
            name: sorted(session.exec(select(getattr(_TABLES[role], name)).distinct()).all())
            for name in ("round", "family", "policy", "reason")
        }


def trajectory(ledger: Ledger, id: str) -> dict[str, Any] | None:
    """Return all that is known of a solver's or proposer's, from its task to its fate; `None` without one."""
    row = ledger.get(EpisodeRow, id) or ledger.get(ProposalRow, id)
    if row is None:
        return None
    task: Task | None = ledger.tasks([row.task_id]).get(row.task_id) if row.task_id else None
    return {
        "role": "solver" if isinstance(row, EpisodeRow) else "proposer",
        "row": row,
        "task": task,
        "refinement": ledger.get(RefinementRow, id),
        "calls": ledger.rows(ToolCallRow, owner=id, order="index"),
        "critiques": ledger.rows(CritiqueRow, trajectory_id=id),
        "fates": ledger.rows(CurationRow, item_id=id),
    }


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    table = _TABLES[wanted.role]
    equal = wanted.model_dump(exclude={"role", "after", "right"}, exclude_none=True)
    conditions: list[ColumnElement[bool]] = [getattr(table, name) == value for name, value in equal.items()]
    if wanted.right is None:
        return conditions
    if wanted.role == "solver":
        return [*conditions, col(EpisodeRow.score) == 1.0 if wanted.right else col(EpisodeRow.score) < 1.0]
    if wanted.role == "proposer":
        return [*conditions, col(ProposalRow.reason) == "ok" if wanted.right else col(ProposalRow.reason) != "ok"]
    said, truth = col(CritiqueRow.verdict), col(CritiqueRow.truth)
    agrees = or_((said == "right") & (truth == 1.0), (said == "wrong") & (truth < 1.0))
    differs = or_((said == "right") & (truth < 1.0), (said == "wrong") & (truth == 1.0))
    return [*conditions, agrees if wanted.right else differs]


def _answers(ledger: Ledger, ids: list[str]) -> list[Listed]:
    names = ("id", "round", "family", "policy", "score", "reason", "answer", "text", "task_id")
    rows = ledger.columns(EpisodeRow, *names, id=ids)
    questions = _questions(ledger, [row[-1] for row in rows])
    return [
        Listed(
            id=id, round=round, family=family, policy=policy, score=score, reason=reason,
            question=_short(questions.get(task, "")), answer=_short(answer if answer is not None else text),
        )
        for id, round, family, policy, score, reason, answer, text, task in rows
    ]  # fmt: skip


def _proposals(ledger: Ledger, ids: list[str]) -> list[Listed]:
    rows = ledger.rows(ProposalRow, id=ids)
    questions = _questions(ledger, [row.task_id for row in rows if row.task_id])
    return [
        Listed(
            id=row.id, round=row.round, family=row.family, policy=row.policy, score=float(row.reason == "ok"),
            reason=row.reason, question=_short(questions.get(row.task_id or "", "")), answer=_short(row.text),
        )
        for row in rows
    ]  # fmt: skip


def _critiques(ledger: Ledger, ids: list[str]) -> list[Listed]:
    rows = ledger.rows(CritiqueRow, trajectory_id=ids)
    tasks = dict(ledger.columns(EpisodeRow, "id", "task_id", id=ids))
    questions = _questions(ledger, [*tasks.values()])
    found = []
    for row in rows:
        known = row.verdict is not None and row.truth is not None
        found.append(
            Listed(
                id=row.trajectory_id, round=row.round, family=row.family, policy=row.policy,
                score=float((row.verdict == "right") == (row.truth == 1.0)) if known else None,
                reason="wrong" if known and row.reason == "ok" else row.reason,
                question=_short(questions.get(tasks.get(row.trajectory_id, ""), "")),
                answer=_short(f"{row.verdict or row.reason}. {row.fault} {row.advice}"),
            )
        )  # fmt: skip
    return found


def _questions(ledger: Ledger, tasks: list[str]) -> dict[str, str]:
    return dict(ledger.columns(TaskRow, "id", "question", id=tasks))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _PREVIEW else line[: _PREVIEW - 1] + "…"
