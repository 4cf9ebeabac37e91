"""The pages that show a run: how far it is, its trajectories, its data, its policies, its report.

What each shows is one function from the ledger to a template's data, so that an export on disk shows the same.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from autotelic.core.errors import StoreError
from autotelic.core.run_dir import RunDir
from autotelic.core.words import PolicyState
from autotelic.evaluation import build_progress, render_progress
from autotelic.graphs.actions import describe_policies, describe_policy
from autotelic.store import AlarmRow, EvaluationRow, GateRow, Ledger
from autotelic.ui import browse, trajectories
from autotelic.ui.browse import Progress

if TYPE_CHECKING:
    from autotelic.ui.site import Site
    from autotelic.ui.site_control import Steering

__all__ = ["Reading", "curves", "fates_shown", "policies_shown"]

_WINDOW = 60.0  # seconds over which the pace is taken


class Reading:
    """See the module.

    Args:
        steering: what can be done with a session, for the buttons on its page.
    """

    def __init__(self, steering: Steering) -> None:
        self._steering = steering
        self._drawn: dict[str, tuple[tuple[int, ...], Any]] = {}
        self._counted: dict[str, deque[tuple[float, int]]] = {}

    def routes(self, site: Site) -> list[Route]:
        """Return the routes."""
        self._site = site
        shown = {
            "/": self.sessions,
            "/runs/{run}/": self.session,
            "/runs/{run}/status": self.status,
            "/runs/{run}/curves": self.curves,
            "/runs/{run}/report": self.report,
            "/runs/{run}/trajectories": self.trajectories,
            "/runs/{run}/trajectories/{id:path}": self.trajectory,
            "/runs/{run}/data": self.data,
            "/runs/{run}/policies": self.policies,
        }
        return [Route(path, site.shown(handler), methods=["GET"]) for path, handler in shown.items()]

    def sessions(self, _: Request) -> Response:
        """All runs, and a form that starts another."""
        found, damaged = [], {}
        for name in self._site.runs.names():
            try:
                with self._site.ledger(name) as (run, ledger):
                    found.append(browse.progress(run, ledger))
            except StoreError as error:  # it is in nobody's way but its own
                damaged[name] = str(error)
        configs, jobs = self._steering.configs.names(), self._steering.jobs.starting(self._site.runs.names())
        root = str(self._site.runs.root)
        return self._site.page(
            "runs", title="Sessions", found=found, damaged=damaged, root=root, configs=configs, starting=jobs
        )

    def session(self, request: Request) -> Response:
        """One run: how far it is, what was measured and decided."""
        name = request.path_params["run"]
        if self._site.runs.open(name) is None and self._steering.jobs.directory(name) is not None:
            return self._site.to(self._site.links.place(name, "log"))
        with self._site.ledger(name) as (run, ledger):
            one, gates, drawn = browse.progress(run, ledger), browse.decisions(ledger), self._curves(run, ledger)
        report = (run.root / "report.html").is_file()
        shown = {"one": one, "gates": gates, "report": report, "curves": drawn, "pace": self._pace(one)}
        stopped = not one.running and one.outcome is None and run.config.is_file()
        can = {"stop": one.running, "resume": stopped}
        return self._site.page("run", title=name, run=name, can=can, **shown)

    def status(self, request: Request) -> Response:
        """The part of a run's page that changes all the time."""
        with self._site.ledger(request.path_params["run"]) as (run, ledger):
            one = browse.progress(run, ledger)
        return self._site.page("status", one=one, pace=self._pace(one))

    def curves(self, request: Request) -> Response:
        """The part of a run's page that changes with each round."""
        with self._site.ledger(request.path_params["run"]) as (run, ledger):
            return self._site.page("curves", curves=self._curves(run, ledger))

    def report(self, request: Request) -> Response:
        """The report, as it was written."""
        with self._site.ledger(request.path_params["run"]) as (run, _):
            path = run.root / "report.html"
        if not path.is_file():
            return self._site.missing("There is no report yet: it is written when the session has ended.")
        return FileResponse(path, headers={"x-content-type-options": "nosniff"})

    def trajectories(self, request: Request) -> Response:
        """A page of trajectories."""
        given = {name: value for name, value in request.query_params.items() if value != ""}
        name = request.path_params["run"]
        try:
            wanted = trajectories.Filter.model_validate(given)
        except ValidationError:
            return self._site.missing("That is no filter.")
        with self._site.ledger(name) as (_, ledger):
            rows, more, total = trajectories.page(ledger, wanted)
            choices = trajectories.values(ledger, wanted.role)
        kept = {key: value for key, value in given.items() if key != "after"}
        ways = {
            "first": _query(kept) if wanted.after else None,
            "next": _query(kept | {"after": more}) if more else None,
        }
        return self._site.page(
            "trajectories", title="Trajectories", run=name, here="trajectories",
            wanted=wanted, rows=rows, ways=ways, total=total, written=total, choices=choices, roles=trajectories.ROLES,
        )  # fmt: skip

    def trajectory(self, request: Request) -> Response:
        """One trajectory, or two beside one another."""
        name, ids = request.path_params["run"], [request.path_params["id"], request.query_params.get("with", "")]
        with self._site.ledger(name) as (_, ledger):
            found = [one for id in ids if id and (one := trajectories.trajectory(ledger, id)) is not None]
        if len(found) < len([id for id in ids if id]):
            return self._site.missing("There is no such trajectory.")
        return self._site.page("trajectory", title="Trajectory", run=name, here="trajectories", found=found)

    def data(self, request: Request) -> Response:
        """The funnel of a round, and its items."""
        name, query = request.path_params["run"], request.query_params
        with self._site.ledger(name) as (_, ledger):
            known = browse.rounds(ledger)
            asked = query.get("round", "")
            round = int(asked) if asked.isdecimal() and len(asked) < 10 else max(known, default=0)
            reason = query.get("reason") or None
            shown, more = fates_shown(ledger, round, reason, query.get("after", ""))
        kept = {"round": round, "reason": reason or ""}
        ways = {
            "first": _query(kept) if query.get("after") else None,
            "next": _query(kept | {"after": more}) if more else None,
        }
        return self._site.page("data", run=name, here="data", rounds=known, ways=ways, **shown)

    def policies(self, request: Request) -> Response:
        """Policies with their cards and proofs."""
        name = request.path_params["run"]
        with self._site.ledger(name) as (run, _):
            found = policies_shown(run)
        busy = self._steering.busy(run)
        return self._site.page("policies", title="Policies", run=name, here="policies", found=found, busy=busy)

    def _curves(self, run: RunDir, ledger: Ledger) -> Any:
        """The curves, drawn anew only where there is something new."""
        stand = (ledger.count(GateRow), ledger.count(EvaluationRow), ledger.count(AlarmRow))
        known = self._drawn.get(run.root.name)
        if known is None or known[0] != stand:
            known = self._drawn[run.root.name] = (stand, curves(ledger))
        return known[1]

    def _pace(self, one: Progress) -> float | None:
        """Answers a second in the last minute, as far as somebody looked; `None` where nothing runs or is known."""
        seen, now = self._counted.setdefault(one.name, deque()), time.monotonic()
        if not one.running:
            seen.clear()
            return None
        seen.append((now, one.answers))
        while seen[0][0] < now - _WINDOW and len(seen) > 2:
            seen.popleft()
        passed = now - seen[0][0]
        return (one.answers - seen[0][1]) / passed if passed > 1 else None


def curves(ledger: Ledger) -> Any:
    """Return accuracy by round, the 2x2 and the alarms as markup, drawn as the report draws them."""
    from markupsafe import Markup

    found = build_progress(ledger)
    return Markup(render_progress(found)) if found["rounds"] or found["alarms"] else ""


def policies_shown(run: RunDir) -> list[dict[str, Any]]:
    """Return all that is known of each policy, the newest first; little of one that was thrown away."""
    bare: dict[str, Any] = {"card": {}, "deliveries": [], "gate": []}
    return [
        row | bare if row["state"] == PolicyState.DISCARDED.value else describe_policy(run.root, row["number"])
        for row in describe_policies(run.root)[::-1]
    ]


def fates_shown(ledger: Ledger, round: int, reason: str | None, after: str) -> tuple[dict[str, Any], str | None]:
    """Return what the page of a round's data shows, and the item that the next one begins after."""
    items, more = browse.fates(ledger, round, reason, after)
    title, funnel = f"Data of round {round}", browse.funnel(ledger, round)
    return {"title": title, "round": round, "funnel": funnel, "items": items, "reason": reason}, more


def _query(given: dict[str, Any]) -> str:
    from urllib.parse import urlencode

    return f"?{urlencode(given)}"
