"""What a person decides: requests that wait in the ledger for as long as it takes, and a log that no change goes
unnoticed in.

A request is asked once, whoever asks and however often the process begins anew. It is answered from wherever a person
is: the command that waits, `autotelic approve`, the browser. Each decision holds the hash of the one before. Who can
write the ledger can still write the whole log anew: keep the last hash elsewhere, and `check_log` will tell.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from langgraph.types import interrupt

from autotelic.core.errors import StoreError, UsageError, Waiting
from autotelic.core.words import content_id
from autotelic.store import ApprovalRow, DecisionRow, Ledger

if TYPE_CHECKING:
    from autotelic.graphs.session import Session

__all__ = ["answer", "check_log", "decided", "log_head", "oversee_tools", "request", "wait", "withdraw"]

_FIRST = "0" * 64


def request(ledger: Ledger, kind: str, subject: str, question: dict[str, Any]) -> ApprovalRow:
    """Ask a person, unless this was asked before; return the request.

    Args:
        ledger: the run's.
        kind: what is to be decided: `promotion`, `training`, `tool`, `forgetting`.
        subject: about what, e.g. `policy-3`.
        question: `ask`, the question in words, and the evidence.
    """
    row = ApprovalRow(id=content_id(kind, subject, question)[:12], kind=kind, subject=subject, question=question)
    ledger.add([row])
    found = ledger.get(ApprovalRow, row.id)
    assert found is not None, "it was just added"
    return found


def answer(ledger: Ledger, id: str, yes: bool, *, by: str = "", why: str = "") -> DecisionRow:
    """Answer a request, once, and write the decision into the log.

    Args:
        ledger: the run's.
        id: of the request.
        yes: the answer.
        by: who says so; by default the user that the process runs as.
        why: the reason, for those who read the log.

    Raises:
        UsageError: there is no such request, or it was answered before.
    """
    row = ledger.get(ApprovalRow, id)
    if row is None:
        known = ", ".join(one.id for one in ledger.rows(ApprovalRow, answer=None)) or "none"
        raise UsageError(f"there is no request {id!r}. Open ones: {known}.")
    at = round(time.time(), 3)

    def make(last: DecisionRow | None) -> DecisionRow:
        decision = DecisionRow(
            number=last.number + 1 if last else 1,
            approval=row.id,
            kind=row.kind,
            subject=row.subject,
            question=row.question,
            answer=yes,
            by=by or _user(),
            why=why,
            at=at,
            before=last.hash if last else _FIRST,
            hash="",
        )
        decision.hash = _hash(decision)
        return decision

    decision = ledger.conclude(row.id, yes, at, make)
    if decision is None:
        (before,) = ledger.column(ApprovalRow, "answer", id=row.id)
        said = "approved" if before else "refused"
        raise UsageError(f"{row.subject} was {said} before. A decision stands; a later one is about something else.")
    return decision


def withdraw(ledger: Ledger, asked: dict[str, Any] | None) -> None:
    """Refuse what nobody waits for any more, if it is still open here.

    Args:
        ledger: the run's.
        asked: the question as `decided` had it asked; one that is in no ledger, or none, is left alone.
    """
    with suppress(UsageError):  # it was answered meanwhile, or waits in another run
        if asked is not None and "request" in asked:
            answer(ledger, asked["request"], False, why="what it was asked for was taken back")


def decided(
    ledger: Ledger, kind: str, subject: str, question: dict[str, Any], ask: Callable[[dict[str, Any]], Any]
) -> bool:
    """Return what a person decided; if nobody has yet, `ask`, which may end the process until somebody has."""
    row = request(ledger, kind, subject, question)
    if row.answer is None:
        given = ask({**question, "request": row.id})
        return answer(ledger, row.id, given is True).answer
    return row.answer


def oversee_tools(s: Session, ask: Callable[[dict[str, Any]], Any] = interrupt) -> None:
    """Ask once about each tool of a session that writes or reaches other machines, if the config wants that.

    Raises:
        UsageError: a person refused one. The session goes no further with it.
    """
    if "tools" not in s.config.oversight:
        return
    for tool in s.toolbox.allowed:
        if tool.permission not in ("writes", "network"):
            continue
        question = {
            "ask": f"let agents call {tool.name}?",
            "reasons": [f"permission class: {tool.permission}", tool.description.split("\n")[0]],
        }
        if not decided(s.ledger, "tool", tool.name, question, ask):
            raise UsageError(f"a person refused the tool {tool.name}. Leave it out of tools, in a new run.")


def wait(question: dict[str, Any]) -> bool:
    """Ask by ending what is being done, for `decided`: it is done again when somebody has answered.

    Raises:
        Waiting: always.
    """
    raise Waiting(
        f"{question['ask']} This waits for a person: autotelic approve RUN {question['request']} --yes|--no, where RUN "
        "is the run's directory."
    )


def log_head(ledger: Ledger) -> str:
    """Return the hash of the last decision: kept elsewhere, it tells whether the log was written anew."""
    last = _last(ledger)
    return last.hash if last else _FIRST


def check_log(ledger: Ledger, head: str | None = None) -> int:
    """Go through the log; return how many decisions it holds.

    Args:
        ledger: the run's.
        head: hash that the log is known to hold, from an earlier `log_head`.

    Raises:
        StoreError: a decision was changed, taken out or put in.
    """
    before, seen = _FIRST, {_FIRST}
    rows = ledger.rows(DecisionRow, order="number")
    for number, row in enumerate(rows, 1):
        if row.number != number or row.before != before or row.hash != _hash(row):
            raise StoreError(f"the log of decisions was changed: number {number} is not what was written.")
        before = row.hash
        seen.add(before)
    if head is not None and head not in seen:
        raise StoreError("the log of decisions was changed: it does not hold the decision with that hash.")
    return len(rows)


def _last(ledger: Ledger) -> DecisionRow | None:
    rows = ledger.rows(DecisionRow, order="number")
    return rows[-1] if rows else None


def _hash(row: DecisionRow) -> str:
    written = json.dumps(row.model_dump(exclude={"hash"}), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name  # not getpass, which takes LOGNAME's word for it
    except KeyError:  # no such user here, as in some containers
        return "unknown"
