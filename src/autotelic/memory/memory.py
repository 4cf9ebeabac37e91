"""The memory: demonstrations, lessons and skills behind one door.

SQLite is the truth, Chroma an index that is checked when it is opened and rebuilt where it differs. One process owns
the directory. Every question may be asked "as of" the round in progress, so that what a repeated round sees is what it
saw first.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field

from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen
from autotelic.memory._index import Index
from autotelic.memory._owner import own
from autotelic.memory._search import Query, Search, nearest
from autotelic.memory._truth import Row, Truth, Where
from autotelic.memory.embedder import CachedEmbedder, Embedder, Vectors
from autotelic.memory.items import Item, Kind, Lesson, Record
from autotelic.memory.ranking import within

__all__ = ["KINDS", "Added", "Memory", "Query"]

T = TypeVar("T")
KINDS: tuple[Kind, ...] = ("demonstration", "lesson", "skill")
_MAX_CHARS = 20_000
_SAME_LESSON = 0.9
_FEW = 256


class Added(Frozen):
    """What became of items that were to be remembered. Those known, harmful or forgotten for good are in none."""

    added: tuple[str, ...] = ()
    """Ids of new items."""
    merged: dict[str, str] = Field(default_factory=dict)
    """Ids of lessons that say what a known one says, and that one's id."""
    refused: dict[str, str] = Field(default_factory=dict)
    """Ids of what may not be remembered, and why."""


class Memory:
    """The items of one directory, made by `await Memory.open(...)`; safe to share between tasks."""

    def __init__(self, lock: int, truth: Truth, index: Index, embedder: Embedder, limits: tuple[int, int]) -> None:
        self._file_lock: int | None = lock
        self._truth = truth
        self._index = index
        self._embedder = embedder
        self._limit, self._records = limits
        self._lock = threading.Lock()

    @classmethod
    async def open(
        cls, directory: Path, embedder: Embedder, *, limit: int = 512, records: int = 1000, chroma: str | None = None
    ) -> Self:
        """Open or create the memory in `directory`, become its only owner, and mend its index if that is needed.

        Args:
            directory: the run's `memory/`.
            embedder: makes the vectors; it stays the caller's, who closes it. With another embedder than last time,
                every item is embedded anew.
            limit: items of one kind that one family may have in sight in one scope; beyond it, the older of the two
                most alike goes, again and again.
            records: records that one namespace may have; beyond it, the one written longest ago goes.
            chroma: URL of a Chroma server; by default the index is in `directory`.

        Raises:
            StoreError: another process (or another object in this one) has the directory open.
            MissingPackage: chromadb is not installed.
            UsageError: a limit is below 1, or no Chroma server answers.
        """
        if min(limit, records) < 1:
            raise UsageError(
                f"the limit is {min(limit, records)}; a family or namespace needs room for at least 1. Raise it."
            )
        memory = await asyncio.to_thread(cls._open, directory, embedder, (limit, records), chroma)
        try:
            await memory._use_embedder()
            await memory.check()
        except BaseException:
            await memory.aclose()
            raise
        return memory

    async def add(self, items: Sequence[Item], *, out_of_sight: Mapping[str, str] | None = None) -> Added:
        """Remember items. Known ids, exact duplicates and what was harmful or forgotten for good change nothing.

        Only verified experience is kept: a right demonstration, a lesson from judged trajectories, a skill that showed
        a gain. A lesson that says what a known one of its place says (cosine 0.9 or more) is merged: the known one
        rests on its trajectories too. All are stored or, if the process dies, none.

        Args:
            items: what is to be remembered.
            out_of_sight: ids of those that are stored as retired in their round, and the reasons.
        """
        refused = {one.id: why for one in items if (why := unfit(one))}
        new = await self.unknown([one for one in items if one.id not in refused])
        if not new:
            return Added(refused=refused)
        vectors = await self._embed([one.text for one in new])
        added, merged = await self._locked(lambda: self._add(new, vectors, out_of_sight or {}))
        return Added(added=tuple(added), merged=merged, refused=refused)

    async def unknown(self, items: Sequence[Item]) -> list[Any]:
        """Return those of `items` that are neither remembered nor to be refused, each content of a scope once."""
        return await self._locked(lambda: self._truth.new(items))

    async def retrieve(
        self,
        queries: Sequence[Query],
        k: int,
        *,
        before_round: int | None = None,
        keywords: bool = False,
        variety: float = 0.0,
        tokens: int | None = None,
        count: Callable[[str], int] | None = None,
    ) -> list[list[Any]]:
        """Return for each query up to `k` items, the best first, one for each distinct text.

        The answer depends only on the query, the settings and what was added in rounds before `before_round`; a query's
        neighbours in the batch do not matter.

        Args:
            queries: what to look for; searched together where they ask for the same places.
            k: most items for one query; 0 gives empty lists.
            before_round: see the memory as it stood when this round began; `None`: as it stands now. Of a round
                before the one in progress only what is still kept is seen.
            keywords: rank by words (BM25) too, and fuse both rankings.
            variety: how much unlikeness to what was chosen before counts, in [0, 1].
            tokens: most tokens that the items of one query add to a prompt; an item that does not fit is passed over.
            count: counts a text's tokens; by default a token for three characters, which is rather too many.
        """
        if not queries or k <= 0:
            return [[] for _ in queries]
        vectors = await self._embed([query.text for query in queries])
        search = Search(self._truth, self._index, k, before_round, keywords, variety)
        found = await self._locked(lambda: search.run(queries, vectors))
        size = count or (lambda text: len(text) // 3 + 1)
        return [[row[i] for i in within(tokens, [one.prompt for one in row], size)] for row in found]

    async def all(self, *kinds: Kind) -> list[Any]:
        """Return every item of these kinds (by default all but records), those out of sight too, by round and id."""
        found = await self._locked(self._truth.items)
        wanted = kinds or KINDS
        return sorted((d for d in found.values() if d.kind in wanted), key=lambda one: (one.round, one.id))

    async def in_sight(self, *kinds: Kind) -> list[Any]:
        """Return the items of these kinds (by default all but records) that are in sight, by round and id."""
        rows = await self.rows()
        return [one for one in await self.all(*kinds) if not rows[one.id].why]

    async def get(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the items with these ids."""
        return await self._locked(lambda: self._truth.items(ids))

    async def rows(self) -> dict[str, Row]:
        """Return where every item stands: in sight, or out of it since which round and why."""
        return {row.id: row for row in await self._locked(self._truth.rows)}

    async def replace(self, item: Item) -> None:
        """Give a known item another body: a skill that a person pins, say.

        Raises:
            UsageError: nothing is remembered under its id.
        """
        if not await self.get([item.id]):
            raise UsageError(f"nothing is remembered under {item.id!r}, so it cannot be replaced. Add it.")
        vectors = await self._embed([item.text])
        await self._locked(lambda: self._replace(item, vectors[0]))

    async def retire(self, ids: Sequence[str], *, round: int, reason: str) -> list[str]:
        """Put items out of sight from the round after `round` on; return those that were in sight.

        For the reason `harmful` they are deleted when a later round adds something, and their content is refused.
        """

        def work() -> list[str]:
            gone = self._truth.evict(ids, round, reason)
            self._leave(sorted({*gone} - self._truth.reachable(gone)))
            return gone

        return await self._locked(work)

    async def restore(self, ids: Sequence[str]) -> list[str]:
        """Put retired items in sight again; return those that were not."""

        def work() -> list[str]:
            back = self._truth.restore(ids)
            self._index.put(self._truth.vectors(back))
            return back

        return await self._locked(work)

    async def forget(self, ids: Sequence[str]) -> list[str]:
        """Delete items for good, with index and cached vectors, and return the ids that were there.

        They do not come back: what has the same content is refused from now on. The ledger still has the episodes.
        """
        if isinstance(self._embedder, CachedEmbedder):
            await self._embedder.forget([one.text for one in (await self.get(ids)).values()])

        def work() -> list[str]:
            gone = self._truth.forget(ids)
            if gone:  # Chroma keeps what it deletes in its log
                self._index.rebuild_apart(self._truth.path)
                self._truth.dropped(None)
            return gone

        return await self._locked(work)

    async def keep(self, records: Sequence[Record], *, delete: Sequence[str] = ()) -> None:
        """Write records, over those of the same ids, and delete others; where a namespace is full, the oldest goes."""
        vectors = await self._embed([one.text for one in records])
        pairs = list(zip(records, vectors, strict=True))

        def work() -> None:
            gone = self._truth.write(pairs, delete, self._records)
            self._index.put({one.id: vector for one, vector in pairs if vector is not None})
            self._leave([*gone, *(one.id for one, vector in pairs if vector is None)])

        await self._locked(work)

    async def scan(self, where: Where, text: str | None = None, n: int | None = None) -> list[tuple[float | None, Any]]:
        """Return up to `n` items that meet a condition, each with its likeness to `text`.

        The most alike come first, then those without a vector; without `text` the oldest entry does.
        """
        vector = (await self._embed([text]))[0] if text else None

        def work() -> list[tuple[float | None, Any]]:
            alike: dict[str, float | None] = {}
            if vector is not None and self._truth.count(where):
                size = min(n or 10**9, self._truth.count(where))
                [near] = nearest(self._truth, self._index, vector[None], where, size)
                alike = {id_: 1 - distance for distance, id_ in near}
            if n is None or len(alike) < n:
                rest = [id_ for id_ in self._truth.find(where, limit=-1 if n is None else n) if id_ not in alike]
                alike |= dict.fromkeys(rest if n is None else rest[: n - len(alike)])
            known = self._truth.items(list(alike))
            return [(likeness, known[id_]) for id_, likeness in alike.items()]

        return await self._locked(work)

    async def scopes(self, kind: Kind) -> list[str]:
        """Return every scope that has an item of this kind."""
        return await self._locked(lambda: self._truth.scopes(kind))

    async def count(self, *kinds: Kind) -> int:
        """Return how many items of these kinds (by default all but records) are in sight now."""
        return await self._locked(lambda: self._truth.count(Where(kinds or KINDS)))

    async def check(self) -> bool:
        """Compare the index with the truth, rebuild it if it differs, and return whether it agreed at once."""
        return await self._locked(self._check)

    async def aclose(self) -> None:
        """Let go of the directory; it may be called twice."""
        await asyncio.to_thread(self._close)

    @classmethod
    def _open(cls, directory: Path, embedder: Embedder, limits: tuple[int, int], chroma: str | None) -> Self:
        directory.mkdir(parents=True, exist_ok=True)
        lock = own(directory / "owner.lock")
        try:
            truth = Truth(directory / "memory.sqlite")
            try:
                truth.mend()
                return cls(lock, truth, Index(directory / "chroma", chroma), embedder, limits)
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
        known = await self._locked(self._truth.texts)
        vectors = await self._embedder.embed(list(known.values()))
        await self._locked(lambda: self._truth.set_vectors(name, dict(zip(known, vectors, strict=True))))
        await self._locked(self._rebuild)

    async def _embed(self, texts: Sequence[str]) -> list[Vectors | None]:
        """Return a vector for each text, `None` for an empty one."""
        asked = [text for text in texts if text]
        found = iter(await self._embedder.embed(asked))
        return [next(found) if text else None for text in texts]

    def _add(
        self, candidates: Sequence[Item], vectors: Sequence[Vectors | None], out_of_sight: Mapping[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        by_id = dict(zip((one.id for one in candidates), vectors, strict=True))
        # Another task may have added the same while these were being embedded.
        new = self._truth.new(candidates)
        merged: dict[str, str] = {}
        lessons = [one for one in new if isinstance(one, Lesson) and one.id not in out_of_sight]
        for one in lessons:
            if (known := self._same_lesson(one, lessons, by_id, merged)) is not None:
                merged[one.id] = known
        kept = [one for one in new if one.id not in merged]
        # Killed before the next line, the index is behind; `open` sees it and rebuilds.
        left = self._truth.add([(one, by_id[one.id]) for one in kept], self._limit, out_of_sight)
        reachable = self._truth.reachable([one.id for one in kept])
        self._index.put({id_: vector for id_ in sorted(reachable) if (vector := by_id[id_]) is not None})
        self._leave(left)
        for id_, known in merged.items():
            self._merge(known, next(one for one in new if one.id == id_))
        return [one.id for one in kept], merged

    def _same_lesson(
        self, one: Lesson, new: Sequence[Lesson], vectors: dict[str, Any], merged: dict[str, str]
    ) -> str | None:
        """Return the id of a lesson, stored or earlier in the batch, that says the same in the same place."""
        place = (one.scope, one.environment, one.family)
        ids, matrix = self._truth.matrix(Where(("lesson",), (one.scope,), one.environment, one.family))
        known = dict(zip(ids, matrix, strict=True))
        for other in new:
            if other.id == one.id:
                break
            if other.id not in merged and place == (other.scope, other.environment, other.family):
                known[other.id] = vectors[other.id]
        alike = {id_: round(float(vector @ vectors[one.id]), 5) for id_, vector in known.items()}
        best = max(alike, key=lambda id_: (alike[id_], id_), default=None)
        return best if best is not None and alike[best] >= _SAME_LESSON else None

    def _merge(self, id_: str, other: Any) -> None:
        known: Lesson = self._truth.items([id_])[id_]
        rests = {name: tuple(sorted({*getattr(known, name), *getattr(other, name)})) for name in ("right", "wrong")}
        vector = self._truth.vectors([id_]).get(id_)
        self._truth.replace(known.model_copy(update=rests), vector)

    def _replace(self, item: Item, vector: Vectors | None) -> None:
        self._truth.replace(item, vector)
        if vector is None:
            self._leave([item.id])
        elif self._truth.reachable([item.id]):
            self._index.put({item.id: vector})

    def _leave(self, ids: Sequence[str]) -> None:
        """Take items out of the index; build it anew when it has more remnants of such than items."""
        self._index.drop(ids)
        if ids and self._truth.dropped(len(ids)) > max(_FEW, self._index.count()):
            self._rebuild()

    def _check(self) -> bool:
        ids = self._truth.ids()
        sample = ids[:: max(1, len(ids) // 32)]
        try:
            agrees = self._index.agrees(ids, self._truth.vectors(sample))
        except Exception:  # Chroma raises all kinds of things on a broken directory; each means "rebuild".
            agrees = False
        if not agrees:
            self._rebuild()
        return agrees

    def _rebuild(self) -> None:
        self._index.rebuild(self._truth.vectors(self._truth.ids()))
        self._truth.dropped(None)

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
                    raise UsageError("this memory is closed. Open it again with Memory.open.")
                return work()

        return await asyncio.to_thread(run)


def unfit(item: Item) -> str:
    """Return why an item may not be remembered, empty if it may."""
    if len(item.text) + len(item.prompt) > _MAX_CHARS:
        return f"it has {len(item.text) + len(item.prompt)} characters, at most {_MAX_CHARS} are kept"
    return item.fault
