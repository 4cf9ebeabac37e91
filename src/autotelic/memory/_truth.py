"""The items themselves, in one SQLite file: whatever the index says, this is what is so.

An item that has to make room is not deleted but marked with the round that evicted it, so that a question asked "as of
round n" gets the same answer for ever, which is what lets a killed round be repeated. Only what a person wants
forgotten goes: then no byte of it is left here but a hash, by which it is known if it comes again.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autotelic.memory.items import Item, Kind, read_item

__all__ = ["NEVER", "Row", "Truth", "Where"]

NEVER = 2**31 - 1
"""`evicted` of a row that still has its place."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, content TEXT NOT NULL, kind TEXT NOT NULL, scope TEXT NOT NULL,
    environment TEXT NOT NULL, family TEXT NOT NULL, round INTEGER NOT NULL, evicted INTEGER NOT NULL,
    why TEXT NOT NULL, text TEXT NOT NULL, body TEXT NOT NULL, vector BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_id ON items (id);
CREATE INDEX IF NOT EXISTS by_place ON items (kind, scope, environment, family, evicted);
CREATE INDEX IF NOT EXISTS by_content ON items (content, evicted);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS forgotten (content TEXT PRIMARY KEY);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='items', content_rowid='number');
CREATE VIRTUAL TABLE IF NOT EXISTS terms USING fts5vocab(words, row);
"""
# Ranking by BM25 reads every row that has one of the words: common words would cost most and tell least.
_MAX_WORDS, _MAX_MATCHES, _COMMON = 40, 500, 0.25


@dataclass(frozen=True, slots=True)
class Where:
    """Which items may be found."""

    kinds: tuple[Kind, ...]
    scopes: tuple[str, ...] | None = None
    environment: str | None = None
    family: str | None = None
    before_round: int | None = None

    def sql(self) -> tuple[str, list[Any]]:
        """Return the condition and its values."""
        parts = [f"kind IN ({_marks(self.kinds)})"]
        values: list[Any] = [*self.kinds]
        if self.scopes is not None:
            # A range that the index can use, and in it the scope itself or what is below; "0" comes after "/".
            within = "scope >= ? AND scope < ? AND (scope = ? OR scope > ?)"
            parts.append(f"({' OR '.join(within for _ in self.scopes) or '0'})")
            values += [v for scope in self.scopes for v in (scope, f"{scope}0", scope, f"{scope}/")]
        for name, value in (("environment", self.environment), ("family", self.family)):
            if value is not None:
                parts.append(f"{name} = ?")
                values.append(value)
        if self.before_round is None:
            parts.append("evicted = ?")
            values.append(NEVER)
        else:
            parts.append("round < ? AND evicted >= ?")
            values += [self.before_round, self.before_round]
        return " AND ".join(parts), values


class Row(NamedTuple):
    """Where an item stands."""

    id: str
    kind: Kind
    family: str
    round: int
    evicted: int
    why: str


class Truth:
    """The SQLite file. Synchronous; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._common: set[str] = set()  # words in too many texts, which counting them each time would read
        self._file = sqlite3.connect(path, timeout=30, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=FULL")
        self._file.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def embedder(self) -> str | None:
        """Return the name of the embedder that made the vectors, `None` in a new file."""
        row = self._file.execute("SELECT value FROM meta WHERE key = 'embedder'").fetchone()
        return row[0] if row else None

    def set_vectors(self, embedder: str, vectors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Replace every vector by those of another embedder, in one transaction."""
        with self._file:
            rows = [(vector.tobytes(), id_) for id_, vector in vectors.items()]
            self._file.executemany("UPDATE items SET vector = ? WHERE id = ?", rows)
            self._file.execute("INSERT OR REPLACE INTO meta VALUES ('embedder', ?)", (embedder,))

    def ids(self) -> list[str]:
        """Return the ids of all items that have a vector, in order."""
        return [id_ for (id_,) in self._file.execute("SELECT id FROM items WHERE vector != x'' ORDER BY id")]

    def rows(self) -> list[Row]:
        """Return where every item stands, in the order of ids."""
        return [
            Row(*row)
            for row in self._file.execute("SELECT id, kind, family, round, evicted, why FROM items ORDER BY id")
        ]

    def vectors(self, ids: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the vectors of the given ids."""
        found = self._select("SELECT id, vector FROM items WHERE vector != x''", ids)
        return {id_: np.frombuffer(blob, dtype=np.float32) for id_, blob in found}

    def items(self, ids: Sequence[str] | None = None) -> dict[str, Any]:
        """Return all items, or those with the given ids."""
        if ids is None:
            found: Iterable[Any] = self._file.execute("SELECT id, body FROM items")
        else:
            found = self._select("SELECT id, body FROM items WHERE 1", ids)
        return {id_: read_item(body) for id_, body in found}

    def texts(self) -> dict[str, str]:
        """Return what the items that have a text are found by."""
        return dict(self._file.execute("SELECT id, text FROM items WHERE text != ''"))

    def find(self, where: Where, *, limit: int = -1) -> list[str]:
        """Return the ids that meet the condition, the oldest entry first."""
        condition, values = where.sql()
        query = f"SELECT id FROM items WHERE {condition} ORDER BY number LIMIT ?"
        return [id_ for (id_,) in self._file.execute(query, [*values, limit])]

    def count(self, where: Where) -> int:
        """Return how many items meet the condition."""
        condition, values = where.sql()
        return int(self._file.execute(f"SELECT count(*) FROM items WHERE {condition}", values).fetchone()[0])

    def scopes(self, kind: Kind) -> list[str]:
        """Return every scope that has an item of this kind."""
        return [scope for (scope,) in self._file.execute("SELECT DISTINCT scope FROM items WHERE kind = ?", (kind,))]

    def among(self, ids: Sequence[str], where: Where) -> set[str]:
        """Return those of `ids` that meet the condition."""
        condition, values = where.sql()
        return {id_ for (id_,) in self._select(f"SELECT id FROM items INDEXED BY by_id WHERE {condition}", ids, values)}

    def matrix(self, where: Where) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Return the ids that meet the condition and have a vector, and the vectors `[ids, dimension]`."""
        condition, values = where.sql()
        query = f"SELECT id, vector FROM items WHERE {condition} AND vector != x'' ORDER BY number"
        found = self._file.execute(query, values).fetchall()
        if not found:
            return [], np.zeros((0, 0), dtype=np.float32)
        joined = np.frombuffer(b"".join(blob for _, blob in found), dtype=np.float32)
        return [id_ for id_, _ in found], joined.reshape(len(found), -1)

    def by_words(self, text: str, where: Where, n: int) -> list[str]:
        """Return up to `n` ids whose text has the rarer words of `text`, the best first by BM25."""
        words = list(dict.fromkeys(re.findall(r"\w+", text.lower())))[:_MAX_WORDS]
        often = sorted((count, word) for word in words if (count := self._count(word)))
        most = min(
            _MAX_MATCHES,
            max(1, int(_COMMON * (self._file.execute("SELECT max(number) FROM items").fetchone()[0] or 0))),
        )
        chosen, matches = [], 0
        for count, word in often:
            matches += count
            if count > most or matches > _MAX_MATCHES:
                break
            chosen.append(f'"{word}"')
        if not chosen:
            return []
        condition, values = where.sql()
        query = (
            "SELECT id FROM words JOIN items ON items.number = words.rowid "
            f"WHERE words MATCH ? AND {condition} ORDER BY round(bm25(words), 5), id LIMIT ?"
        )
        return [id_ for (id_,) in self._file.execute(query, [" OR ".join(chosen), *values, n])]

    def _count(self, word: str) -> int:
        """Return how many texts have a word; 0 also for one in too many."""
        if word in self._common:
            return 0
        row = self._file.execute("SELECT doc FROM terms WHERE term = ?", (word,)).fetchone()
        if row and row[0] > _MAX_MATCHES:
            self._common.add(word)
        return int(row[0]) if row else 0

    def new(self, items: Iterable[Item]) -> list[Item]:
        """Return those that are neither stored nor exact duplicates of what is stored or of one another."""
        fresh: dict[str, Item] = {}
        seen: set[str] = set()
        # What its own round has evicted counts as stored, else adding a round's batch twice would add something.
        query = "SELECT 1 FROM items WHERE id = ? OR (content = ? AND evicted >= ?)"
        forgotten = {content for (content,) in self._file.execute("SELECT content FROM forgotten")}
        for one in items:
            if one.id in fresh or one.content in seen | forgotten:
                continue
            if self._file.execute(query, (one.id, one.content, one.round)).fetchone() is None:
                fresh[one.id] = one
                seen.add(one.content)
        return list(fresh.values())

    def add(self, new: Sequence[tuple[Any, npt.NDArray[np.float32] | None]], limit: int) -> None:
        """Store items with their vectors and evict what then exceeds the limit, in one transaction.

        Args:
            new: items, each with its vector, or without one if it has no text.
            limit: most items of one kind, scope, environment and family in sight; beyond it, the older of the two most
                alike goes, again and again. Records are not bounded.
        """
        with self._file:
            for one, vector in new:
                self._insert(one, vector)
            places = {(d.kind, d.scope, d.environment, d.family) for d, _ in new if d.kind != "record"}
            for place in sorted(places):
                own = max(d.round for d, _ in new if (d.kind, d.scope, d.environment, d.family) == place)
                self._make_room(place, limit, own)

    def replace(self, item: Any, vector: npt.NDArray[np.float32] | None) -> None:
        """Give a stored item another body; its place, round and eviction stay."""
        with self._file:
            self._rewrite(item, vector)

    def evict(self, ids: Sequence[str], round_: int, why: str) -> list[str]:
        """Put items out of sight from the round after `round_` on; return the ids that were in sight."""
        with self._file:
            return self._evict(ids, round_, why)

    def restore(self, ids: Sequence[str]) -> list[str]:
        """Put evicted items in sight again; return the ids that were not."""
        with self._file:
            query = "UPDATE items SET evicted = ?, why = '' WHERE id = ? AND evicted != ?"
            return [i for i in ids if self._file.execute(query, (NEVER, i, NEVER)).rowcount]

    def write(self, records: Sequence[tuple[Any, npt.NDArray[np.float32] | None]], delete: Sequence[str]) -> None:
        """Write records over those of the same ids, and delete others, in one transaction.

        Remnants of what is deleted may lie in the file until it is next written there; see `forget`.
        """
        with self._file:
            for one, vector in records:
                if self._file.execute("SELECT 1 FROM items WHERE id = ?", (one.id,)).fetchone():
                    self._rewrite(one, vector)
                else:
                    self._insert(one, vector)
            for id_ in delete:
                self._unword(id_)
                self._file.execute("DELETE FROM items WHERE id = ?", (id_,))

    def forget(self, ids: Sequence[str]) -> list[str]:
        """Delete items, and what a deletion usually leaves in the file; return the ids that were there."""
        known = self.items(ids)
        self._common.clear()
        self._file.execute("PRAGMA secure_delete = ON")
        with self._file:
            contents = [(one.content,) for one in known.values()]
            self._file.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", contents)
            self._file.executemany("DELETE FROM items WHERE id = ?", [(id_,) for id_ in known])
            self._file.execute("INSERT INTO words (words) VALUES ('rebuild')")
        self._file.execute("VACUUM")
        self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sorted(known)

    def _insert(self, one: Any, vector: npt.NDArray[np.float32] | None) -> None:
        place = (one.id, one.content, one.kind, one.scope, one.environment, one.family, one.round, NEVER, "")
        blob = b"" if vector is None else vector.tobytes()
        cursor = self._file.execute(
            f"INSERT INTO items VALUES (NULL, {_marks(place)}, ?, ?, ?)",
            (*place, one.text, one.model_dump_json(), blob),
        )
        self._file.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (cursor.lastrowid, one.text))

    def _rewrite(self, item: Any, vector: npt.NDArray[np.float32] | None) -> None:
        number = self._unword(item.id)
        blob = b"" if vector is None else vector.tobytes()
        self._file.execute(
            "UPDATE items SET content = ?, text = ?, body = ?, vector = ? WHERE id = ?",
            (item.content, item.text, item.model_dump_json(), blob, item.id),
        )
        self._file.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, item.text))

    def _unword(self, id_: str) -> int:
        """Take an item's words out of the keyword index; return its row's number."""
        number, text = self._file.execute("SELECT number, text FROM items WHERE id = ?", (id_,)).fetchone()
        self._file.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (number, text))
        return int(number)

    def _evict(self, ids: Sequence[str], round_: int, why: str) -> list[str]:
        query = "UPDATE items SET evicted = ?, why = ? WHERE id = ? AND evicted = ?"
        return [i for i in ids if self._file.execute(query, (round_, why, i, NEVER)).rowcount]

    def _make_room(self, place: tuple[str, str, str, str], limit: int, round_: int) -> None:
        own = "FROM items WHERE kind = ? AND scope = ? AND environment = ? AND family = ? AND evicted = ?"
        if self._file.execute(f"SELECT count(*) {own}", (*place, NEVER)).fetchone()[0] > limit:
            query = f"SELECT id, vector {own} ORDER BY round, id"
            rows = self._file.execute(query, (*place, NEVER)).fetchall()
            matrix = np.stack([np.frombuffer(blob, dtype=np.float32) for _, blob in rows])
            self._evict([rows[i][0] for i in least_diverse(matrix, len(rows) - limit)], round_, "room")

    def _select(self, query: str, ids: Sequence[str], values: Sequence[Any] = ()) -> Iterator[Any]:
        for start in range(0, len(ids), 500):
            part = list(ids[start : start + 500])
            yield from self._file.execute(f"{query} AND id IN ({_marks(part)})", [*values, *part])


def least_diverse(matrix: npt.NDArray[np.float32], n: int) -> list[int]:
    """Return the indices of `n` rows to give up: again and again the older of the two rows most alike.

    Args:
        matrix: unit vectors `[rows, dimension]`, oldest first.
        n: how many have to go, fewer than there are rows.
    """
    # Rounded, so that the order of summation never decides.
    alike = np.round(matrix @ matrix.T, 5)
    np.fill_diagonal(alike, -2.0)
    gone: list[int] = []
    for _ in range(n):
        oldest = int(np.argmax(alike.max(axis=1)))
        gone.append(oldest)
        alike[oldest, :] = -3.0
        alike[:, oldest] = -3.0
    return gone


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
