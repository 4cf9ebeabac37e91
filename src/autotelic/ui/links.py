"""Where a page leads: addresses of this server, or files beside one another in a folder that opens from disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import Any, Protocol
from urllib.parse import quote, urlencode

__all__ = ["Disk", "Links", "Served"]


class Links(Protocol):
    """Addresses that templates ask for; `None` where there is no such page."""

    live: bool
    """Whether a server answers: there are buttons, filters and a script."""

    def static(self, name: str) -> str:
        """A style sheet or the script."""
        ...

    def sessions(self) -> str | None:
        """The list of runs."""
        ...

    def place(self, run: str, place: str, **query: Any) -> str:
        """A place of a run."""
        ...

    def trajectory(self, run: str, id: str) -> str | None:
        """One trajectory."""
        ...


class Served:
    """Addresses of the server."""

    live = True

    def static(self, name: str) -> str:
        """See `Links`."""
        return f"/static/{name}"

    def sessions(self) -> str | None:
        """See `Links`."""
        return "/"

    def place(self, run: str, place: str, **query: Any) -> str:
        """See `Links`."""
        asked = {key: value for key, value in query.items() if value not in (None, "")}
        return f"/runs/{quote(run, safe='')}/{quote(place)}{'?' + urlencode(asked) if asked else ''}"

    def trajectory(self, run: str, id: str) -> str | None:
        """See `Links`."""
        return self.place(run, f"trajectories/{id}")


class Disk:
    """Files of an export, all in one folder but for the trajectories.

    Args:
        written: ids of the trajectories that are there.
        up: what leads from the page to the folder: empty, or `../`.
    """

    live = False

    def __init__(self, written: Collection[str], up: str = "") -> None:
        self._written = written
        self._up = up

    def static(self, name: str) -> str:
        """See `Links`."""
        return f"{self._up}static/{name}"

    def sessions(self) -> str | None:
        """See `Links`."""
        return None

    def place(self, run: str, place: str, **query: Any) -> str:  # noqa: ARG002 (a folder holds one run)
        """See `Links`."""
        return f"{self._up}{place or 'index'}.html"

    def trajectory(self, run: str, id: str) -> str | None:  # noqa: ARG002
        """See `Links`."""
        return f"{self._up}{self.file(id)}" if id in self._written else None

    @staticmethod
    def file(id: str) -> str:
        """Return the file of a trajectory, from the folder: a name that every file system takes, of its own."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", id)[:60].strip("-")
        return f"trajectory/{name}-{hashlib.sha256(id.encode()).hexdigest()[:8]}.html"
