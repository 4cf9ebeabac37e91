"""Progress as the rooms see it: named bars with a total; who draws them is decided at the edge."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """Something that can show how far work is."""

    def start(self, name: str, total: int | None = None, done: int = 0) -> None:
        """Begin a bar. `total` is `None` where it cannot be known; `done` counts what an earlier attempt did."""

    def advance(self, name: str, by: int = 1) -> None:
        """Move a bar on."""

    def stop(self, name: str) -> None:
        """End a bar."""

    def say(self, text: str) -> None:
        """Print one line above the bars."""


class Silent:
    """Shows nothing."""

    def start(self, name: str, total: int | None = None, done: int = 0) -> None:
        """Do nothing."""

    def advance(self, name: str, by: int = 1) -> None:
        """Do nothing."""

    def stop(self, name: str) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""
