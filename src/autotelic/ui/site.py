"""The browser app over HTTP: the pages of runs, and what a person may do there.

Who opens it brings the key once, in the address; a cookie that no other site can use stands for it from then on.
Whatever changes something is a POST that carries a token besides, which only these pages know.
"""

from __future__ import annotations

import hmac
import inspect
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from autotelic.core.errors import AutotelicError, UsageError
from autotelic.core.run_dir import RunDir
from autotelic.store import Ledger
from autotelic.ui.browse import NoRun, Runs
from autotelic.ui.guard import Bounds, Guard
from autotelic.ui.links import Served
from autotelic.ui.listen import LOOPBACK, listen, listening_on, url_of
from autotelic.ui.pages import HEADERS, Pages, static
from autotelic.ui.site_approvals import Approving, count_waiting
from autotelic.ui.site_control import Configs, Jobs, Steering
from autotelic.ui.site_library import Keeping
from autotelic.ui.site_reading import Reading

__all__ = ["COOKIE", "HEADERS", "TOKEN_HEADER", "Handler", "NoRun", "Part", "Site", "show_site"]

COOKIE = "autotelic"
TOKEN_HEADER = "x-autotelic-token"
"""Where a script sends the token; a form has a field `token`."""
Handler = Callable[[Request], Response | Awaitable[Response]]
"""What answers a request. One that is not async runs in a thread."""
_LOCKED = "Open the address that was printed at the start: it holds the key."
_NOT_MEANT = "Nothing was changed: the page that you came from is out of date. Open it anew and try again."


class Part(Protocol):
    """Pages that belong together."""

    def routes(self, site: Site) -> list[Route]:
        """Return the routes, each handler wrapped in `site.shown`."""
        ...


class Site:
    """The pages.

    Args:
        runs: which runs are shown.
        key: what who opens it must know; empty lets anybody in.
        configs: directory of the files that a session can be started from; without one none can.
        chat: pages of a chat, shown among a run's places.
        jobs: begins the commands that run by themselves.
    """

    def __init__(
        self,
        runs: Runs,
        key: str,
        *,
        configs: Path | None = None,
        chat: Part | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        self.runs = runs
        self.token = hmac.new(key.encode() or secrets.token_bytes(32), b"post", "sha256").hexdigest()
        self.links = Served()
        steering = Steering(Configs(configs), jobs or Jobs())
        self._key = key
        self._parts: list[Part] = [Reading(steering), steering, Approving(), Keeping(), *([chat] if chat else [])]
        self._pages = Pages(token=self.token, chat=chat is not None, links=self.links)

    def app(self) -> Starlette:
        """Return the application."""
        routes = [route for part in self._parts for route in part.routes(self)]
        return Starlette(routes=[*routes, Route("/static/{name}", self.static)])

    def static(self, request: Request) -> Response:
        """A style sheet or a script."""
        found = static(request.path_params["name"])
        if found is None:
            return Response(status_code=404)
        text, kind = found
        return Response(text, media_type=kind, headers={**HEADERS, "cache-control": "max-age=60"})

    def shown(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: who may not see it is turned away, and so is a POST without the token.

        A form that was sent is in `request.state.form`, a `dict[str, str]`.
        """

        async def answer(request: Request) -> Response:
            if (given := request.query_params.get("key")) is not None and self._may(given):
                return self._entered(request)
            if not self._may(request.cookies.get(COOKIE, "")):
                return self.page("message", 401, title="Locked", text=_LOCKED)
            try:
                if request.method not in ("GET", "HEAD") and not await self._meant(request):
                    return self.page("message", 403, title="Not done", text=_NOT_MEANT)
                found = handler(request) if _is_async(handler) else await run_in_threadpool(handler, request)
                return await found if inspect.isawaitable(found) else found
            except NoRun:
                return self.missing("There is no such run.")
            except UsageError as error:
                return self._told(request, 409, "That cannot be done", error)
            except AutotelicError as error:
                return self._told(request, 500, "Something is wrong", error)

        return answer

    def page(self, name: str, status: int = 200, **data: Any) -> Response:
        """Return a page: a template's name and what it shows, see `Pages`."""
        run = self.runs.open(data["run"]) if data.get("run") else None
        waiting = 0 if run is None else count_waiting(run)
        return HTMLResponse(self._pages(name, waiting=waiting, **data), status, headers=HEADERS)

    def to(self, address: str) -> Response:
        """Return the way to a page, after something was done."""
        return RedirectResponse(address, 303, headers=HEADERS)

    def missing(self, text: str) -> Response:
        """Return the page of what is not there."""
        return self.page("message", 404, title="Not here", text=text)

    @contextmanager
    def ledger(self, name: str) -> Iterator[tuple[RunDir, Ledger]]:
        """Open a run and its ledger by the run's name.

        Raises:
            NoRun: there is none; `shown` answers it.
        """
        run = self.runs.open(name)
        if run is None:
            raise NoRun
        ledger = Ledger(run.ledger)
        try:
            yield run, ledger
        finally:
            ledger.close()

    def _told(self, request: Request, status: int, title: str, error: Exception) -> Response:
        """Return the page of an error, among the places of the run that it is about."""
        name = request.path_params.get("run", "")
        run = name if self.runs.open(name) else None
        return self.page("message", status, title=title, text=str(error), run=run)

    def _entered(self, request: Request) -> Response:
        """Swap the key in an address for the cookie."""
        rest = request.url.remove_query_params("key")
        entered = RedirectResponse(f"{rest.path}{'?' + rest.query if rest.query else ''}", 303, headers=HEADERS)
        entered.set_cookie(COOKIE, self._key, httponly=True, samesite="strict")
        return entered

    async def _meant(self, request: Request) -> bool:
        """Whether one of these pages sent this: it has the token, in its form or in a header."""
        form: dict[str, str] = {}
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        request.state.form = form
        given = request.headers.get(TOKEN_HEADER) or form.pop("token", "")
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _may(self, given: str) -> bool:
        return not self._key or hmac.compare_digest(given.encode(), self._key.encode())


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler)


async def show_site(
    root: Path,
    host: str,
    port: int,
    ready: Callable[[str], None],
    *,
    configs: Path | None = None,
    chat: Part | None = None,
) -> None:
    """Show the runs of a directory in a browser, until told to stop. Sessions that were started there go on.

    Args:
        root: the directory.
        host: address to listen on.
        port: port, 0 for a free one.
        ready: called with the address to open, which holds the key.
        configs: directory of the files that a session can be started from.
        chat: pages of a chat; who made them closes them.

    Raises:
        UsageError: there is no such directory, or the address cannot be had.
    """
    if not root.is_dir():
        raise UsageError(f"there is no directory {root}. Name the one that holds your runs, e.g. autotelic ui runs.")
    key = secrets.token_urlsafe(24)
    with listening_on(host, port) as listening:
        bounds = Bounds(hosts=LOOPBACK if host in LOOPBACK else None, rate=60_000, burst=600)
        app = Guard(Site(Runs(root), key, configs=configs, chat=chat).app(), bounds)
        url = f"{url_of(host, listening)}/?key={key}"
        await listen(app, listening, lambda: ready(url), grace=2)
