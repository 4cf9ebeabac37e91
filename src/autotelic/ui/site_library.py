"""A run's library: what it remembers and the tools it has made, looked at and kept in order by a person.

Looking reads the memory's file beside whoever owns it. Whatever changes something, and a search by meaning, opens the
library as the command line does, and is refused while a session has it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from autotelic.core.errors import UsageError, Waiting
from autotelic.core.run_dir import RunDir
from autotelic.graphs.holdings import forget_items, known_items, last_round, open_library, worth_of
from autotelic.graphs.skill_library import pin_skill
from autotelic.memory import KINDS, Memory, Query, glance
from autotelic.store import Ledger, SkillRow
from autotelic.ui.browse import holder

if TYPE_CHECKING:
    from autotelic.memory import Row
    from autotelic.ui.site import Site

__all__ = ["Keeping"]

T = TypeVar("T")
Work = Callable[[RunDir, Memory, Ledger], Awaitable[T]]
_PAGE = 50
_FOUND = 20  # items that a search by meaning returns
_BY_PERSON = "by a person"
_NO_MORE_WORDS = 500
_PLACE = "library"


class Keeping:
    """See the module."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    def routes(self, site: Site) -> list[Route]:
        """Return the routes."""
        self._site = site
        return [
            Route("/runs/{run}/library", site.shown(self.items), methods=["GET"]),
            Route("/runs/{run}/library", site.shown(self.change), methods=["POST"]),
            Route("/runs/{run}/library/{id:path}", site.shown(self.item), methods=["GET"]),
        ]

    def items(self, request: Request) -> Response:
        """What is remembered, the newest first, or what a search finds."""
        name, query = request.path_params["run"], request.query_params
        wanted = {key: query.get(key, "") for key in ("kind", "family", "sight", "text", "how")}
        wanted["text"] = wanted["text"][:_NO_MORE_WORDS]
        with self._site.ledger(name) as (run, _):
            known = glance(run.memory)
            busy = holder(run) is not None
        families = sorted({one.family for one, _ in known})
        found = [pair for pair in known[::-1] if _fits(pair, wanted)]
        if wanted["how"] == "meaning" and wanted["text"]:
            found = self._by_meaning(name, wanted, known)
        start = int(query["from"]) if query.get("from", "").isdecimal() else 0
        ways = {
            "first": self._way(name, wanted) if start else None,
            "next": self._way(name, wanted | {"from": start + _PAGE}) if start + _PAGE < len(found) else None,
        }
        return self._site.page(
            "library", title="Library", run=name, here=_PLACE, found=found[start : start + _PAGE], total=len(found),
            wanted=wanted, families=families, kinds=KINDS, ways=ways, busy=busy,
        )  # fmt: skip

    def item(self, request: Request) -> Response:
        """One item whole: where it stands, what it was worth, and what can be done with it."""
        name, id = request.path_params["run"], request.path_params["id"]
        with self._site.ledger(name) as (run, ledger):
            pair = next((pair for pair in glance(run.memory) if pair[0].id == id), None)
            if pair is None:
                return self._site.missing("Nothing is remembered under that id.")
            worth = worth_of(ledger).get(id)
            decided = ledger.rows(SkillRow, skill_id=id, order=["round", "kind", "id"])
            busy = holder(run) is not None
        one, row = pair
        title = one.name if one.kind == "skill" else one.kind.capitalize()
        shown = {"one": one, "row": row, "worth": worth, "decided": decided, "busy": busy}
        return self._site.page("item", title=title, run=name, here=_PLACE, sure=False, **shown)

    def change(self, request: Request) -> Response:
        """Do something with an item."""
        name, form = request.path_params["run"], request.state.form
        act, id = form.get("act", ""), form.get("id", "")
        if act not in _ACTS:
            raise UsageError(f"there is nothing that is called {act[:40]!r}. Use the buttons of the page.")
        if act == "forget" and form.get("sure") != "yes":
            raise UsageError("nothing was forgotten: say that it is meant, by the box beside the button.")
        try:
            self._alone(name, lambda run, memory, ledger: _ACTS[act](run, memory, ledger, id))
        except Waiting:
            return self._site.to(self._site.links.place(name, "approvals"))
        gone = act == "forget"
        return self._site.to(self._site.links.place(name, _PLACE if gone else f"{_PLACE}/{id}"))

    def _by_meaning(self, name: str, wanted: dict[str, str], known: list[tuple[Any, Row]]) -> list[tuple[Any, Row]]:
        kinds = tuple(kind for kind in KINDS if wanted["kind"] in ("", kind)) or KINDS
        query = Query(wanted["text"], family=wanted["family"] or None, kinds=kinds, itself=True)

        async def work(_: RunDir, memory: Memory, __: Ledger) -> list[Any]:
            return (await memory.retrieve([query], _FOUND, keywords=True))[0]

        rows = {one.id: row for one, row in known}
        return [(one, rows[one.id]) for one in self._alone(name, work) if one.id in rows]

    def _alone(self, name: str, work: Work[T]) -> T:
        """Open the library as its only user, and do something with it; called in a thread, one after another."""

        async def opened() -> T:
            async with open_library(run.root) as (memory, ledger):
                return await work(run, memory, ledger)

        with self._turn, self._site.ledger(name) as (run, _):
            if (pid := holder(run)) is not None:
                raise UsageError(
                    f"process {pid} has this run, a session most likely, and owns its library. Wait until it has "
                    "ended, or stop it on the session's page; it can go on afterwards."
                )
            return asyncio.run(opened())

    def _way(self, name: str, wanted: dict[str, Any]) -> str:
        return self._site.links.place(name, _PLACE, **wanted)


async def _forget(run: RunDir, memory: Memory, ledger: Ledger, id: str) -> None:
    await forget_items(run, memory, ledger, [id])


async def _retire(_: RunDir, memory: Memory, ledger: Ledger, id: str) -> None:
    await known_items(memory, [id])
    await memory.retire([id], round=last_round(ledger), reason=_BY_PERSON)


async def _restore(_: RunDir, memory: Memory, __: Ledger, id: str) -> None:
    await known_items(memory, [id])
    await memory.restore([id])


async def _pin(_: RunDir, memory: Memory, __: Ledger, id: str) -> None:
    await pin_skill(memory, id, True)


async def _unpin(_: RunDir, memory: Memory, __: Ledger, id: str) -> None:
    await pin_skill(memory, id, False)


_ACTS: dict[str, Callable[[RunDir, Memory, Ledger, str], Awaitable[None]]] = {
    "forget": _forget,
    "retire": _retire,
    "restore": _restore,
    "pin": _pin,
    "unpin": _unpin,
}


def _fits(pair: tuple[Any, Row], wanted: dict[str, str]) -> bool:
    one, row = pair
    words = wanted["text"].lower().split()
    text = f"{one.text} {one.prompt} {one.id}".lower()
    return (
        wanted["kind"] in ("", one.kind)
        and wanted["family"] in ("", one.family)
        and wanted["sight"] in ("", "out" if row.why else "in")
        and all(word in text for word in words)
    )
