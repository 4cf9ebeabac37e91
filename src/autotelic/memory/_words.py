"""The words of a text, exactly as SQLite's full-text search has them: without accents, cut at anything not a letter."""

from __future__ import annotations

import sqlite3

__all__ = ["Words"]


class Words:
    """Cuts texts with a full-text table in memory, made as the one that is searched is. One thread at a time."""

    def __init__(self) -> None:
        self._file = sqlite3.connect(":memory:", check_same_thread=False)
        self._file.executescript(
            "CREATE VIRTUAL TABLE asked USING fts5(text);CREATE VIRTUAL TABLE words USING fts5vocab(asked, instance);"
        )

    def of(self, text: str) -> list[str]:
        """Return each word of `text` once, in the order of the text."""
        self._file.execute("INSERT INTO asked (rowid, text) VALUES (1, ?)", (text,))
        found = self._file.execute("SELECT term FROM words GROUP BY term ORDER BY min(offset)").fetchall()
        self._file.rollback()
        return [word for (word,) in found]

    def close(self) -> None:
        """Free it."""
        self._file.close()
