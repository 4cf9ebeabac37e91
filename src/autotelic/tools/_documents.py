"""Search in local documents: the passages of text files in a folder, ranked by SQLite's BM25.

The index lives in memory and is made anew when a file has changed. Files are read as text and never run; links that
lead out of the folder are not followed.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from autotelic.core.errors import ModelRetry, UsageError
from autotelic.core.registry import register
from autotelic.tools._tool import Tool, tool

__all__ = ["documents"]

_SUFFIXES = {".csv", ".html", ".json", ".log", ".md", ".org", ".py", ".rst", ".tex", ".toml", ".txt", ".yaml", ".yml"}
_MAX_FILE, _MAX_FILES, _PASSAGE = 4_000_000, 20_000, 1200
_PIECE = re.compile(rf".{{1,{_PASSAGE}}}(?:\s|$)|.{{1,{_PASSAGE}}}")


@register("tool", "documents")
def documents(folder: str) -> Tool:
    """Return a tool that searches the text files under `folder`.

    Raises:
        UsageError: there is no such folder.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise UsageError(f"there is no folder {folder} to search in. Name one: documents=PATH.")
    index = _Index(root)

    @tool(name="documents", permission="reads")
    def search(query: str, count: int = 3) -> str:
        """Search local documents for words. Returns the best passages, each with its file and line."""
        if not 1 <= count <= 20:
            raise ModelRetry(f"count is {count}, expected 1 to 20")
        return index.search(query, count)

    return search


class _Index:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: dict[Path, tuple[int, int]] = {}
        self._db: sqlite3.Connection | None = None

    def search(self, query: str, count: int) -> str:
        words = re.findall(r"\w+", query)
        if not words:
            raise ModelRetry("the query has no words")
        with contextlib.closing(self._fresh().cursor()) as cursor:
            rows = cursor.execute(
                "SELECT file, line, text FROM passage WHERE passage MATCH ? ORDER BY bm25(passage, 0, 0, 1) LIMIT ?",
                (" OR ".join(f'"{word}"' for word in words[:50]), count),
            ).fetchall()
        return "\n\n".join(f"{file}:{line}\n{text}" for file, line, text in rows) or "nothing was found"

    def _fresh(self) -> sqlite3.Connection:
        seen = {path: (stat.st_mtime_ns, stat.st_size) for path in self._files() if (stat := path.stat())}
        if self._db is None or seen != self._seen:
            # Shared between the threads that searches run in; only ever read after it is made.
            db = sqlite3.connect(":memory:", check_same_thread=False)
            db.execute("CREATE VIRTUAL TABLE passage USING fts5(file UNINDEXED, line UNINDEXED, text)")
            for path in seen:
                text = path.read_text(encoding="utf-8", errors="replace")
                rows = [(str(path.relative_to(self._root)), line, part) for line, part in _passages(text)]
                db.executemany("INSERT INTO passage VALUES (?, ?, ?)", rows)
            self._seen, self._db = seen, db
        return self._db

    def _files(self) -> list[Path]:
        found: list[Path] = []
        for path in sorted(self._root.rglob("*")):
            inside = path.suffix.lower() in _SUFFIXES and path.resolve().is_relative_to(self._root) and path.is_file()
            if inside and path.stat().st_size <= _MAX_FILE:
                found.append(path)
            if len(found) == _MAX_FILES:
                break
        return found


def _passages(text: str) -> Iterator[tuple[int, str]]:
    """Cut a text at blank lines into parts of about `_PASSAGE` characters; each with the number of its first line.

    A longer line is cut between words.
    """
    start, lines, size = 1, list[str](), 0
    pieces = ((n, part) for n, line in enumerate(text.splitlines(), 1) for part in _PIECE.findall(line) or [""])
    for number, line in pieces:
        full = size + len(line) > _PASSAGE or (not line.strip() and size > _PASSAGE // 4)
        if full and lines:
            if any(map(str.strip, lines)):
                yield start, "\n".join(lines).strip()
            start, lines, size = number, [], 0
        lines.append(line)
        size += len(line) + 1
    if any(map(str.strip, lines)):
        yield start, "\n".join(lines).strip()
