"""Solved examples that the solver sees before it answers.

SQLite is the truth, Chroma an index that is checked when it is opened and rebuilt where it differs. One process owns
the directory. Every question may be asked "as of" a round, so that a repeated round sees what the first one saw.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from autotelic.core.errors import StoreError, UsageError
from autotelic.memory._index import Index
from autotelic.memory._truth import NEVER, Demonstration, Truth
from autotelic.memory.embedder import Embedder, Vectors

__all__ = ["Demonstration", "DemonstrationMemory", "Query"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Query:
    """One question to find demonstrations for."""

    question: str
    """What the solver will be asked. A demonstration of this very question is never returned."""
    task_id: str | None = None
    """Its task; a demonstration of this task is never returned."""
    environment: str | None = None
    """Only demonstrations of this environment, `None` for any."""
    family: str | None = None
    """Only demonstrations of this family, `None` for any."""


class DemonstrationMemory:
    """The demonstrations of one run, made by `await DemonstrationMemory.open(...)`; safe to share between tasks."""

    def __init__(self, lock: int, truth: Truth, index: Index, embedder: Embedder, family_limit: int) -> None:
        self._file_lock: int | None = lock
        self._truth = truth
        self._index = index
        self._embedder = embedder
        self._family_limit = family_limit
        self._lock = threading.Lock()

    @classmethod
    async def open(cls, directory: Path, embedder: Embedder, *, family_limit: int = 512) -> Self:
        """Open or create the memory in `directory`, become its only owner, and mend its index if that is needed.

        Args:
            directory: the run's `memory/`.
            embedder: makes the vectors; it stays the caller's, who closes it. With another embedder than last time,
                every demonstration is embedded anew.
            family_limit: demonstrations that one family may have in sight; beyond it, the older of the two most
                alike goes, again and again.

        Raises:
            StoreError: another process (or another object in this one) has the directory open.
            MissingPackage: chromadb is not installed.
            UsageError: `family_limit` is below 1.
        """
        if family_limit < 1:
            raise UsageError(f"family_limit is {family_limit}; a family needs room for at least 1. Raise it.")
        memory = await asyncio.to_thread(cls._open, directory, embedder, family_limit)
        try:
            await memory._use_embedder()
            await memory.check()
        except BaseException:
            await memory.aclose()
            raise
        return memory

    async def add(self, demonstrations: Sequence[Demonstration]) -> int:
        """Store demonstrations and return how many were new; known ids and exact duplicates change nothing.

        All are stored or, if the process dies, none. Later additions may put them out of sight (`family_limit`).
        """
        new = await self._locked(lambda: self._truth.new(demonstrations))
        if not new:
            return 0
        vectors = await self._embedder.embed([d.question for d in new])
        return await self._locked(lambda: self._add(new, vectors))

    async def retrieve(
        self, queries: Sequence[Query], k: int, *, before_round: int | None = None
    ) -> list[list[Demonstration]]:
        """Return for each query up to `k` demonstrations, the most alike first, one for each distinct question.

        The answer depends only on the query, `k`, `before_round` and what was added in rounds before that; a query's
        neighbours in the batch do not matter.

        Args:
            queries: what to look for; searched together where environment and family are the same.
            k: most demonstrations for one query; 0 gives empty lists.
            before_round: see the memory as it stood when this round began; `None`: as it stands now.
        """
        if not queries or k <= 0:
            return [[] for _ in queries]
        vectors = await self._embedder.embed([query.question for query in queries])
        return await self._locked(lambda: self._retrieve(queries, vectors, k, before_round))

    async def all(self) -> list[Demonstration]:
        """Return every demonstration, those out of sight too, in the order of rounds and ids."""
        found = await self._locked(self._truth.demonstrations)
        return sorted(found.values(), key=lambda one: (one.round, one.id))

    async def forget(self, ids: Sequence[str]) -> list[str]:
        """Delete demonstrations for good, from the index too, and return the ids that were there.

        They do not come back: what has the same content is refused from now on. The ledger still has the episodes.
        """

        def work() -> list[str]:
            gone = self._truth.forget(ids)
            if gone:  # Chroma keeps what it deletes in its log
                self._index.rebuild_apart(self._truth.path)
            return gone

        return await self._locked(work)

    async def count(self) -> int:
        """Return how many demonstrations are in sight now."""
        return await self._locked(self._truth.count)

    async def check(self) -> bool:
        """Compare the index with the truth, rebuild it if it differs, and return whether it agreed at once."""
        return await self._locked(self._check)

    async def aclose(self) -> None:
        """Let go of the directory; it may be called twice."""
        await asyncio.to_thread(self._close)

    @classmethod
    def _open(cls, directory: Path, embedder: Embedder, family_limit: int) -> Self:
        directory.mkdir(parents=True, exist_ok=True)
        lock = _own(directory / "owner.lock")
        try:
            truth = Truth(directory / "demonstrations.sqlite")
            try:
                return cls(lock, truth, Index(directory / "chroma"), embedder, family_limit)
            except BaseException:
                truth.close()
                raise
        except BaseException:
            os.close(lock)
            raise

    async def _use_embedder(self) -> None:
        name = self._embedder.name
        if await self._locked(self._truth.embedder) == name:
            return
        known = await self._locked(self._truth.demonstrations)
        vectors = await self._embedder.embed([d.question for d in known.values()])
        await self._locked(lambda: self._truth.set_vectors(name, dict(zip(known, vectors, strict=True))))
        await self._locked(self._rebuild)

    def _add(self, candidates: Sequence[Demonstration], vectors: Vectors) -> int:
        # Another task may have added the same while these were being embedded.
        new = self._truth.new(candidates)
        rows = {d.id: vector for d, vector in zip(candidates, vectors, strict=True)}
        if not new:
            return 0
        added, evicted = self._truth.add(new, np.stack([rows[d.id] for d in new]), self._family_limit)
        # Killed before the next line, the index is behind; `open` sees it and rebuilds.
        changed = sorted({*added, *evicted})
        self._index.put(self._truth.rows(changed), self._truth.vectors(changed))
        return len(added)

    def _retrieve(
        self, queries: Sequence[Query], vectors: Vectors, k: int, before_round: int | None
    ) -> list[list[Demonstration]]:
        groups: dict[tuple[str | None, str | None], list[int]] = defaultdict(list)
        for i, query in enumerate(queries):
            groups[(query.environment, query.family)].append(i)
        results: list[list[Demonstration]] = [[] for _ in queries]
        for (environment, family), members in groups.items():
            where = _conditions(environment, family, before_round)
            open_, n = members, 2 * k + 8
            while open_:
                found = self._index.nearest(vectors[open_], n, where)
                known = self._truth.demonstrations(sorted({id_ for near in found for _, id_ in near}))
                for i, near in zip(open_, found, strict=True):
                    results[i] = _pick(queries[i], [known[id_] for _, id_ in near], k)
                # Too many equal questions among the nearest: look further, until there is nothing further.
                short = zip(open_, found, strict=True)
                open_ = [i for i, near in short if len(results[i]) < k and len(near) >= n]
                n *= 4
        return results

    def _check(self) -> bool:
        rows = self._truth.rows()
        sample = [row.id for row in rows[:: max(1, len(rows) // 32)]]
        try:
            agrees = self._index.agrees(rows, self._truth.vectors(sample))
        except Exception:  # Chroma raises all kinds of things on a broken directory; each means "rebuild".
            agrees = False
        if not agrees:
            self._rebuild()
        return agrees

    def _rebuild(self) -> None:
        rows = self._truth.rows()
        self._index.rebuild(rows, self._truth.vectors([row.id for row in rows]))

    def _close(self) -> None:
        with self._lock:
            if self._file_lock is None:
                return
            self._index.close()
            self._truth.close()
            os.close(self._file_lock)
            self._file_lock = None

    async def _locked(self, work: Callable[[], T]) -> T:
        def run() -> T:
            with self._lock:
                if self._file_lock is None:
                    raise UsageError(
                        "this demonstration memory is closed. Open it again with DemonstrationMemory.open."
                    )
                return work()

        return await asyncio.to_thread(run)


def _own(path: Path) -> int:
    """Take the owner's lock. The kernel frees it when the process dies, however that happens."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(
            f"the memory in {path.parent} is open in process {owner}; it can have one owner, because a second writer "
            "loses results. Wait for that process or end it."
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _conditions(environment: str | None, family: str | None, before_round: int | None) -> list[dict[str, Any]]:
    named = {"environment": environment, "family": family}
    where: list[dict[str, Any]] = [{key: value} for key, value in named.items() if value is not None]
    if before_round is None:
        return [*where, {"evicted": NEVER}]
    return [*where, {"round": {"$lt": before_round}}, {"evicted": {"$gte": before_round}}]


def _pick(query: Query, nearest: Sequence[Demonstration], k: int) -> list[Demonstration]:
    seen = {_plain(query.question)}
    picked: list[Demonstration] = []
    for one in nearest:
        if len(picked) == k:
            break
        question = _plain(one.question)
        if one.task_id != query.task_id and question not in seen:
            seen.add(question)
            picked.append(one)
    return picked


def _plain(question: str) -> str:
    return " ".join(question.split())
