"""The browser app's pages: templates that escape whatever came out of a model or a person."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from autotelic.core.errors import MissingPackage
from autotelic.core.html import duration, num, pct
from autotelic.ui.links import Links, Served

__all__ = ["EXPORTED", "HEADERS", "Pages", "static"]

_PLACES = (
    ("", "Session"),
    ("approvals", "Approvals"),
    ("trajectories", "Trajectories"),
    ("data", "Data"),
    ("policies", "Policies"),
    ("library", "Library"),
    ("log", "Log"),
)
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; img-src 'self' "
        "data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # without any, a browser sends forms as if they came from nowhere
    "cache-control": "no-store",
}
"""What goes with every page: nothing is asked of another host, and no script runs but this app's."""
_STATIC = {
    "page.css": ("autotelic.core", "text/css"),
    "app.css": ("", "text/css"),
    "app.js": ("", "text/javascript"),
    "icon.svg": ("", "image/svg+xml"),
    "chat.css": ("", "text/css"),
    "chat.js": ("", "text/javascript"),
}
EXPORTED = ("", "approvals", "trajectories", "data", "policies")
"""Places that a folder on disk has too."""


class Pages:
    """Renders pages.

    Args:
        token: what forms carry, so that no page of another site can send them.
        chat: whether a run has a chat among its places.
        links: where pages lead.

    Raises:
        MissingPackage: jinja2 is not installed.
    """

    def __init__(self, *, token: str = "", chat: bool = False, links: Links | None = None) -> None:
        try:
            from jinja2 import Environment, PackageLoader, StrictUndefined
        except ModuleNotFoundError:
            raise MissingPackage("jinja2", "endpoint") from None
        self._environment = Environment(
            loader=PackageLoader("autotelic.ui"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        words = {"duration": duration, "pct": pct, "num": num, "merged": _merged, "day": _day, "flat": _flat}
        self._environment.filters |= words
        self._environment.globals |= {"token": token, "talking": chat}
        self._links = links or Served()
        places = [one for one in _PLACES if self._links.live or one[0] in EXPORTED]
        self._places = (*places, *([("chat", "Chat")] if chat else []))

    def __call__(
        self,
        name: str,
        *,
        title: str = "",
        run: str | None = None,
        here: str = "",
        waiting: int = 0,
        links: Links | None = None,
        **data: Any,
    ) -> str:
        """Return a page.

        Args:
            name: of the template, without its ending.
            title: of the page.
            run: name of the run that it is about.
            here: which place of the run it is.
            waiting: how many requests of the run wait for a person.
            links: where this page leads, if not where all do.
            data: what the template shows.
        """
        template = self._environment.get_template(f"{name}.html")
        shown = {"title": title, "run": run, "here": here, "waiting": waiting, "places": self._places}
        return template.render(links=links or self._links, **shown, **data)


def static(name: str) -> tuple[bytes, str] | None:
    """Return a style sheet or a script with its media type, `None` if there is none of that name."""
    if name not in _STATIC:
        return None
    package, kind = _STATIC[name]
    place = files(package) if package else files("autotelic.ui").joinpath("static")
    return place.joinpath(name).read_bytes(), kind


def _merged(given: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {**given, **more}


def _day(at: float | None) -> str:
    """A time, in UTC."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _flat(value: Any) -> str:
    """A value in one line, for a cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)
