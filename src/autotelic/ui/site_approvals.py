"""What waits for a person, and the log of what was decided."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from autotelic.core.errors import StoreError, UsageError
from autotelic.core.run_dir import RunDir
from autotelic.graphs.oversight import answer, check_log, log_head
from autotelic.store import ApprovalRow, DecisionRow, Ledger

if TYPE_CHECKING:
    from autotelic.ui.site import Site

__all__ = ["Approving", "approvals_shown", "count_waiting"]

_MOST_WORDS = 4000
_ANSWERS = {"yes": True, "no": False}


class Approving:
    """See the module."""

    def routes(self, site: Site) -> list[Route]:
        """Return the routes."""
        self._site = site
        path = "/runs/{run}/approvals"
        return [
            Route(path, site.shown(self.approvals), methods=["GET"]),
            Route(path, site.shown(self.decide), methods=["POST"]),
        ]

    def approvals(self, request: Request) -> Response:
        """What is asked, and what was answered."""
        name = request.path_params["run"]
        with self._site.ledger(name) as (_, ledger):
            shown = approvals_shown(ledger)
        return self._site.page("approvals", title="Approvals", run=name, here="approvals", **shown)

    def decide(self, request: Request) -> Response:
        """Approve or refuse, once."""
        form, name = request.state.form, request.path_params["run"]
        said, why = form.get("answer"), form.get("why", "").strip()
        if said not in _ANSWERS:
            raise UsageError("neither yes nor no was said. Choose one of the two buttons.")
        if len(why) > _MOST_WORDS:
            raise UsageError(f"the reason has {len(why)} characters, at most {_MOST_WORDS} are kept. Shorten it.")
        with self._site.ledger(name) as (_, ledger):
            answer(ledger, form.get("id", ""), _ANSWERS[said], why=why)
        return self._site.to(self._site.links.place(name, "approvals"))


def approvals_shown(ledger: Ledger) -> dict[str, Any]:
    """Return what the page shows: open requests, decisions with the latest first, and whether the log holds."""
    try:
        broken, checked = "", check_log(ledger)
    except StoreError as error:
        broken, checked = str(error), 0
    return {
        "open": ledger.rows(ApprovalRow, answer=None, order="asked_at"),
        "made": ledger.rows(DecisionRow, order="number")[::-1],
        "head": log_head(ledger),
        "checked": checked,
        "broken": broken,
    }


def count_waiting(run: RunDir) -> int:
    """Return how many requests of a run wait, for every page's navigation: one question, nothing else is opened."""
    try:
        with closing(sqlite3.connect(f"{run.ledger.as_uri()}?mode=ro", uri=True)) as file:
            return int(file.execute("SELECT count(*) FROM approval WHERE answer IS NULL").fetchone()[0])
    except sqlite3.Error:  # a ledger of before there were approvals
        return 0
