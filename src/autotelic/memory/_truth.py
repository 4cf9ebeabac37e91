"""The demonstrations themselves, in one SQLite file: whatever the index says, this is what is so.

A row that has to make room is not deleted but marked with the round that evicted it, so that a question asked "as of
round n" gets the same answer for ever, which is what lets a killed round be repeated. Only what a person wants forgotten
goes: then no byte of it is left here but a hash, by which it is known if it comes again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autotelic.core.words import Frozen, Message, Task, content_id

__all__ = ["NEVER", "Demonstration", "Row", "Truth"]

NEVER = 2**31 - 1
"""`evicted` of a row that still has its place."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS demonstrations (
    id TEXT PRIMARY KEY, content TEXT NOT NULL, environment TEXT NOT NULL, family TEXT NOT NULL,
    round INTEGER NOT NULL, evicted INTEGER NOT NULL, body TEXT NOT NULL, vector BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_family ON demonstrations (environment, family, evicted);
CREATE INDEX IF NOT EXISTS by_content ON demonstrations (content, evicted);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS forgotten (content TEXT PRIMARY KEY);
"""


class Demonstration(Frozen):
    """A solved example, as memory keeps it."""

    id: str
    """Unique; the same id is the same demonstration and is stored once."""
    task_id: str
    """Task it solves."""
    environment: str
    """Environment of that task."""
    family: str
    """Family of that task."""
    question: str
    """What the solver was asked; what demonstrations are found by."""
    answer: str
    """What it answered, as it should stand in a prompt."""
    score: float
    """Checker's score, in [0, 1]."""
    policy: int
    """Policy that answered; 0 is the base."""
    round: int
    """Round it was made in; it can be seen from the next round on."""
    trajectory_id: str
    """Trajectory it comes from, empty for a real example."""
    turns: tuple[Message, ...] = ()
    """Calls of tools and their results, between question and answer."""
    text: str = ""
    """The last turn as it was said, where that is more than the answer."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The example as it should stand in a prompt."""
        said = Message(role="assistant", content=self.text or self.answer)
        return (Message(role="user", content=self.question), *self.turns, said)

    @classmethod
    def of(cls, task: Task) -> Demonstration:
        """Make the example of a real task, whose answer is known."""
        return cls(
            id=f"real/{task.id}",
            task_id=task.id,
            environment=task.environment,
            family=task.family,
            question=task.question,
            answer=str(task.answer),
            score=1.0,
            policy=0,
            round=0,
            trajectory_id="",
        )

    @property
    def content(self) -> str:
        """Equal for exact duplicates: same environment, family, question and answer."""
        return content_id(self.environment, self.family, self.question, self.answer)


class Row(NamedTuple):
    """What the index has to know about a demonstration."""

    id: str
    environment: str
    family: str
    round: int
    evicted: int


class Truth:
    """The SQLite file. Synchronous; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
            self._file.executemany("UPDATE demonstrations SET vector = ? WHERE id = ?", rows)
            self._file.execute("INSERT OR REPLACE INTO meta VALUES ('embedder', ?)", (embedder,))

    def rows(self, ids: Sequence[str] | None = None) -> list[Row]:
        """Return all rows, or those with the given ids, in id order."""
        query = "SELECT id, environment, family, round, evicted FROM demonstrations"
        return sorted(Row(*row) for row in self._select(query, ids))

    def vectors(self, ids: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the vectors of the given ids."""
        found = self._select("SELECT id, vector FROM demonstrations", ids)
        return {id_: np.frombuffer(blob, dtype=np.float32) for id_, blob in found}

    def demonstrations(self, ids: Sequence[str] | None = None) -> dict[str, Demonstration]:
        """Return all demonstrations, or those with the given ids."""
        found = self._select("SELECT id, body FROM demonstrations", ids)
        return {id_: Demonstration.model_validate_json(body) for id_, body in found}

    def count(self) -> int:
        """Return how many demonstrations have a place (evicted ones do not count)."""
        found = self._file.execute("SELECT count(*) FROM demonstrations WHERE evicted = ?", (NEVER,)).fetchone()
        return int(found[0])

    def new(self, demonstrations: Iterable[Demonstration]) -> list[Demonstration]:
        """Return those that are neither stored nor exact duplicates of what is stored or of one another."""
        fresh: dict[str, Demonstration] = {}
        seen: set[str] = set()
        # What its own round has evicted counts as stored, else adding a round's batch twice would add something.
        query = "SELECT 1 FROM demonstrations WHERE id = ? OR (content = ? AND evicted >= ?)"
        forgotten = {content for (content,) in self._file.execute("SELECT content FROM forgotten")}
        for one in demonstrations:
            if one.id in fresh or one.content in seen | forgotten:
                continue
            if self._file.execute(query, (one.id, one.content, one.round)).fetchone() is None:
                fresh[one.id] = one
                seen.add(one.content)
        return list(fresh.values())

    def add(
        self, new: Sequence[Demonstration], vectors: npt.NDArray[np.float32], family_limit: int
    ) -> tuple[list[str], list[str]]:
        """Store `new` and evict what then exceeds the limit, in one transaction; return (added ids, evicted ids)."""
        evicted: list[str] = []
        with self._file:
            self._file.executemany(
                "INSERT INTO demonstrations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (d.id, d.content, d.environment, d.family, d.round, NEVER, d.model_dump_json(), v.tobytes())
                    for d, v in zip(new, vectors, strict=True)
                ],
            )
            for environment, family in sorted({(d.environment, d.family) for d in new}):
                round_ = max(d.round for d in new if (d.environment, d.family) == (environment, family))
                evicted += self._make_room(environment, family, family_limit, round_)
        return [d.id for d in new], evicted

    def forget(self, ids: Sequence[str]) -> list[str]:
        """Delete demonstrations, and what a deletion usually leaves in the file; return the ids that were there."""
        known = self.demonstrations(ids)
        self._file.execute("PRAGMA secure_delete = ON")
        with self._file:
            self._file.executemany(
                "INSERT OR IGNORE INTO forgotten VALUES (?)", [(one.content,) for one in known.values()]
            )
            self._file.executemany("DELETE FROM demonstrations WHERE id = ?", [(id_,) for id_ in known])
        self._file.execute("VACUUM")
        self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sorted(known)

    def _make_room(self, environment: str, family: str, limit: int, round_: int) -> list[str]:
        rows = self._file.execute(
            "SELECT id, vector FROM demonstrations WHERE environment = ? AND family = ? AND evicted = ? "
            "ORDER BY round, id",
            (environment, family, NEVER),
        ).fetchall()
        if len(rows) <= limit:
            return []
        matrix = np.stack([np.frombuffer(blob, dtype=np.float32) for _, blob in rows])
        ids = [rows[i][0] for i in least_diverse(matrix, len(rows) - limit)]
        self._file.executemany("UPDATE demonstrations SET evicted = ? WHERE id = ?", [(round_, id_) for id_ in ids])
        return ids

    def _select(self, query: str, ids: Sequence[str] | None) -> Iterator[Any]:
        if ids is None:
            yield from self._file.execute(query)
            return
        for start in range(0, len(ids), 500):
            part = list(ids[start : start + 500])
            yield from self._file.execute(f"{query} WHERE id IN ({','.join('?' * len(part))})", part)


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
