"""The items themselves, in one SQLite file: whatever the index says, this is what is so.

An item that has to make room is not deleted but marked with the round that evicted it, so that a question asked "as of
round n" gets the same answer until that round is over, which is what lets a killed round be repeated. Then it goes, and
what did harm leaves a hash, by which it is refused. What was put out of sight for another reason stays and can be
restored. Of what a person wants forgotten no byte is left here but such a hash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autotelic.memory._words import Words
from autotelic.memory.items import HARMFUL, Item, Kind, Record, read_item
from autotelic.memory.ranking import least_diverse

__all__ = ["NEVER", "Row", "Truth", "Where"]

NEVER = 2**31 - 1
"""`evicted` of a row that still has its place."""
_ROOM = "room"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, content TEXT NOT NULL, kind TEXT NOT NULL, scope TEXT NOT NULL,
    environment TEXT NOT NULL, family TEXT NOT NULL, round INTEGER NOT NULL, evicted INTEGER NOT NULL,
    why TEXT NOT NULL, text TEXT NOT NULL, body TEXT NOT NULL, vector BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_id ON items (id);
CREATE INDEX IF NOT EXISTS by_sight ON items (id, kind, scope, environment, family, round, evicted);
CREATE INDEX IF NOT EXISTS by_place ON items (kind, scope, environment, family, evicted);
CREATE INDEX IF NOT EXISTS by_content ON items (content, evicted);
CREATE INDEX IF NOT EXISTS by_eviction ON items (evicted, why);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS forgotten (content TEXT PRIMARY KEY);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='items', content_rowid='number');
CREATE VIRTUAL TABLE IF NOT EXISTS terms USING fts5vocab(words, row);
"""
# Ranking by BM25 reads every row that has one of the words: common words would cost most and tell least.
_MAX_WORDS, _MAX_MATCHES, _COMMON = 40, 250, 0.25
# A place of at most so many items keeps its vectors in memory, the last so many places.
_NARROW, _KEPT = 4096, 8


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
        self._file.execute("PRAGMA secure_delete=ON")
        self._file.executescript(_SCHEMA)
        self._words = Words()
        self._matrices: dict[Where, tuple[list[str], npt.NDArray[np.float32]]] = {}
        self._as_of = -1

    def close(self) -> None:
        """Close the file."""
        self._words.close()
        self._file.close()

    def mend(self) -> None:
        """Give notes of older versions the ids by which LangGraph's store finds them."""
        with self._file:
            found = self._file.execute("SELECT body FROM items WHERE kind = 'record' AND id LIKE 'note/%'").fetchall()
            for old in (read_item(body) for (body,) in found):
                assert isinstance(old, Record)
                new = old.placed(old.namespace, old.key)
                place = (new.id, new.content, new.scope, new.model_dump_json(), old.id)
                query = "UPDATE OR IGNORE items SET id = ?, content = ?, scope = ?, body = ? WHERE id = ?"
                self._file.execute(query, place)

    def embedder(self) -> str | None:
        """Return the name of the embedder that made the vectors, `None` in a new file."""
        return self._meta("embedder")

    def floor(self) -> int:
        """Return the round in progress, as far as is known: what was evicted before it, nobody can ask for."""
        return int(self._meta("floor") or 0)

    def dropped(self, more: int | None = None) -> int:
        """Count what has left the index since it was built, and `more`; `None`: it was just built."""
        count = 0 if more is None else int(self._meta("dropped") or 0) + more
        with self._file:
            self._set_meta("dropped", str(count))
        return count

    def set_vectors(self, embedder: str, vectors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Replace every vector by those of another embedder, in one transaction."""
        with self._file:
            rows = [(vector.tobytes(), id_) for id_, vector in vectors.items()]
            self._file.executemany("UPDATE items SET vector = ? WHERE id = ?", rows)
            self._set_meta("embedder", embedder)
        self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def ids(self) -> list[str]:
        """Return the ids of all items that the index should have, in order: with a vector, and within reach."""
        query = "SELECT id FROM items WHERE vector != x'' AND evicted >= ? ORDER BY id"
        return [id_ for (id_,) in self._file.execute(query, (self.floor(),))]

    def reachable(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are in sight, or were when the round in progress began."""
        return {id_ for (id_,) in self._select("SELECT id FROM items WHERE evicted >= ?", ids, (self.floor(),))}

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

    def faces(self, ids: Sequence[str]) -> dict[str, tuple[str, str | None]]:
        """Return by id the text that an item is found by and, of a demonstration, its task."""
        found = self._select("SELECT id, text, json_extract(body, '$.task_id') FROM items WHERE 1", ids)
        return {id_: (text, task_id) for id_, text, task_id in found}

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
        query = f"SELECT id FROM items INDEXED BY by_sight WHERE {condition}"
        return {id_ for (id_,) in self._select(query, ids, values)}

    def matrix(self, where: Where) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Return the ids that meet the condition and have a vector, and the vectors `[ids, dimension]`.

        Those of the narrow places asked for last are kept until something is written.
        """
        if self._as_of != self._file.total_changes:
            self._matrices.clear()
            self._as_of = self._file.total_changes
        if where in self._matrices:
            return self._matrices[where]
        condition, values = where.sql()
        query = f"SELECT id, vector FROM items WHERE {condition} AND vector != x'' ORDER BY number"
        found = self._file.execute(query, values).fetchall()
        joined = np.frombuffer(b"".join(blob for _, blob in found), dtype=np.float32)
        made = [id_ for id_, _ in found], joined.reshape(len(found), -1 if found else 0)
        if len(found) <= _NARROW:
            if len(self._matrices) == _KEPT:
                del self._matrices[next(iter(self._matrices))]
            self._matrices[where] = made
        return made

    def by_words(self, text: str, where: Where, n: int) -> list[str]:
        """Return up to `n` ids whose text has the rarer words of `text`, the best first by BM25."""
        words = self._words.of(text)[:_MAX_WORDS]
        often = sorted((count, word) for word in words if (count := self._count(word)))
        enough = int(_MAX_MATCHES / _COMMON)
        held = self._file.execute("SELECT count(*) FROM (SELECT 1 FROM items LIMIT ?)", (enough,)).fetchone()[0]
        most = max(1, int(_COMMON * held))
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
        """Return those that are neither stored, nor refused, nor exact duplicates within a scope."""
        fresh: dict[str, Item] = {}
        seen: set[tuple[str, str]] = set()
        # What its own round has evicted counts as stored, else adding a round's batch twice would add something.
        query = (
            "SELECT 1 FROM items WHERE id = ?1 OR (content = ?2 AND (why = ?3 OR (scope = ?4 AND evicted >= ?5))) "
            "UNION ALL SELECT 1 FROM forgotten WHERE content = ?2"
        )
        for one in items:
            if one.id in fresh or (one.content, one.scope) in seen:
                continue
            values = (one.id, one.content, HARMFUL, one.scope, one.round)
            if self._file.execute(query, values).fetchone() is None:
                fresh[one.id] = one
                seen.add((one.content, one.scope))
        return list(fresh.values())

    def add(
        self,
        new: Sequence[tuple[Any, npt.NDArray[np.float32] | None]],
        limit: int,
        out_of_sight: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Store items with their vectors and evict what then exceeds the limit, in one transaction.

        What was evicted before the newest item's round is out of everybody's reach from then on: what had to make room
        or did harm is deleted.

        Args:
            new: items, each with its vector, or without one if it has no text.
            limit: most items of one kind, scope, environment and family in sight; beyond it, the older of the two most
                alike goes, again and again.
            out_of_sight: ids of those that are evicted already, and why.

        Returns:
            The ids of what was within reach and is no longer.
        """
        with self._file:
            for one, vector in new:
                self._insert(one, vector)
                if why := (out_of_sight or {}).get(one.id):
                    self._evict([one.id], one.round, why)
            for place in sorted({(d.kind, d.scope, d.environment, d.family) for d, _ in new}):
                self._make_room(place, limit)
            return self._settle(max((d.round for d, _ in new), default=0))

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

    def write(
        self, records: Sequence[tuple[Any, npt.NDArray[np.float32] | None]], delete: Sequence[str], limit: int
    ) -> list[str]:
        """Write records over those of the same ids, and delete others, in one transaction.

        Of a namespace that then has more than `limit`, those that were written longest ago are deleted too. Remnants of
        what is deleted may lie in the log beside the file for a while; see `forget`.

        Returns:
            The ids of what is no longer there.
        """
        with self._file:
            for one, vector in records:
                if self._file.execute("SELECT 1 FROM items WHERE id = ?", (one.id,)).fetchone():
                    self._rewrite(one, vector)
                else:
                    self._insert(one, vector)
            gone = [*delete]
            self._delete(gone)
            for scope in sorted({one.scope for one, _ in records}):
                oldest = self._oldest(scope, limit)
                self._delete(oldest)
                gone += oldest
        return gone

    def forget(self, ids: Sequence[str]) -> list[str]:
        """Delete items, and what a deletion usually leaves in the file; return the ids that were there."""
        known = self.items(ids)
        self._common.clear()
        self._matrices.clear()
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

    def _delete(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            self._unword(id_)
            self._file.execute("DELETE FROM items WHERE id = ?", (id_,))

    def _oldest(self, scope: str, limit: int) -> list[str]:
        """Return the ids of a namespace's records beyond the `limit` written last."""
        own = "FROM items WHERE kind = 'record' AND scope = ?"
        if self._file.execute(f"SELECT count(*) {own}", (scope,)).fetchone()[0] <= limit:
            return []
        newest = "ORDER BY json_extract(body, '$.updated_at') DESC, number DESC LIMIT -1 OFFSET ?"
        return [id_ for (id_,) in self._file.execute(f"SELECT id {own} {newest}", (scope, limit))]

    def _settle(self, round_: int) -> list[str]:
        """Take `round_` for the round in progress, if it is the latest; return what is out of reach from now on."""
        before, left = self.floor(), list[str]()
        if round_ > before:
            query = "SELECT id FROM items WHERE evicted >= ? AND evicted < ?"
            left = [id_ for (id_,) in self._file.execute(query, (before, round_))]
            self._set_meta("floor", str(round_))
        query = "SELECT id, content, why FROM items WHERE evicted < ? AND why IN (?, ?)"
        dead = self._file.execute(query, (max(before, round_), _ROOM, HARMFUL)).fetchall()
        harmful = [(content,) for _, content, why in dead if why == HARMFUL]
        self._file.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", harmful)
        self._delete([id_ for id_, _, _ in dead])
        self._common.clear()
        return left

    def _evict(self, ids: Sequence[str], round_: int, why: str) -> list[str]:
        query = "UPDATE items SET evicted = ?, why = ? WHERE id = ? AND evicted = ?"
        return [i for i in ids if self._file.execute(query, (round_, why, i, NEVER)).rowcount]

    def _make_room(self, place: tuple[str, str, str, str], limit: int) -> None:
        own = "FROM items WHERE kind = ? AND scope = ? AND environment = ? AND family = ? AND evicted = ?"
        if self._file.execute(f"SELECT count(*) {own}", (*place, NEVER)).fetchone()[0] > limit:
            query = f"SELECT id, round, vector {own} ORDER BY round, id"
            rows = self._file.execute(query, (*place, NEVER)).fetchall()
            matrix = np.stack([np.frombuffer(blob, dtype=np.float32) for _, _, blob in rows])
            # Not before the round in progress: what is imported into it would be gone at once, as an old round's.
            newest = max(rows[-1][1], self.floor())
            self._evict([rows[i][0] for i in least_diverse(matrix, len(rows) - limit)], newest, _ROOM)

    def _meta(self, key: str) -> str | None:
        row = self._file.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def _set_meta(self, key: str, value: str) -> None:
        self._file.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _select(self, query: str, ids: Sequence[str], values: Sequence[Any] = ()) -> Iterator[Any]:
        for start in range(0, len(ids), 500):
            part = list(ids[start : start + 500])
            yield from self._file.execute(f"{query} AND id IN ({_marks(part)})", [*values, *part])


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
