"""What a memory holds, read from its file beside whoever owns it: for pages that only show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotelic.memory._truth import Row, Truth

__all__ = ["Row", "glance"]


def glance(directory: Path) -> list[tuple[Any, Row]]:
    """Return every item but records, with where it stands, by round and id; nothing where there is no memory yet.

    The index is not opened and nobody's lock is taken, so this works while a session runs.

    Args:
        directory: the run's `memory/`.
    """
    path = directory / "memory.sqlite"
    if not path.is_file():
        return []
    truth = Truth(path)
    try:
        rows = {row.id: row for row in truth.rows()}
        items = sorted(truth.items().values(), key=lambda one: (one.round, one.id))
    finally:
        truth.close()
    return [(one, rows[one.id]) for one in items if one.kind != "record" and one.id in rows]
