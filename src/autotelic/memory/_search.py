"""How a search runs, in the thread that holds the memory's lock: Chroma first, exactly where Chroma is not enough.

Chroma knows nothing of what a search may see. It is asked for more than is wanted; whoever then has too few is compared
with everything that may be seen, which is exact, and quick where the places are narrow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotelic.memory._index import Index
from autotelic.memory._truth import Truth, Where
from autotelic.memory.embedder import Vectors
from autotelic.memory.items import RUN, Kind
from autotelic.memory.ranking import diverse, fuse

__all__ = ["Query", "Search", "nearest"]


@dataclass(frozen=True, slots=True)
class Query:
    """One question to find items for."""

    text: str
    """What to look for: what the solver will be asked."""
    task_id: str | None = None
    """Its task; a demonstration of this task is never returned."""
    environment: str | None = None
    """Only items of this environment, `None` for any."""
    family: str | None = None
    """Only items of this family, `None` for any."""
    kinds: tuple[Kind, ...] = ("demonstration",)
    """Kinds that may be found."""
    scopes: tuple[str, ...] | None = (RUN,)
    """Scopes that may be seen, each with all below it; `None` for any."""
    itself: bool = False
    """Whether an item found by this very text may be returned: to a person, not into the prompt of that question."""

    def where(self, before_round: int | None = None) -> Where:
        """Return the condition that items have to meet."""
        return Where(self.kinds, self.scopes, self.environment, self.family, before_round)


def nearest(truth: Truth, index: Index, matrix: Vectors, where: Where, n: int) -> list[list[tuple[float, str]]]:
    """Return for each row of `matrix` up to `n` pairs (distance rounded to 5 digits, id) that meet the condition."""
    found = index.nearest(matrix, 4 * n + 32)
    met = truth.among(sorted({id_ for near in found for _, id_ in near}), where)
    results = [[pair for pair in near if pair[1] in met][:n] for near in found]
    if short := [row for row, near in enumerate(results) if len(near) < n]:
        ids, held = truth.matrix(where)
        for row in short:
            distances = np.round(1 - held @ matrix[row], 5).tolist() if ids else []
            results[row] = sorted(zip(distances, ids, strict=True))[:n]
    return results


@dataclass(frozen=True)
class Search:
    """Settings of one search; see `Memory.retrieve`."""

    truth: Truth
    index: Index
    k: int
    before_round: int | None = None
    keywords: bool = False
    variety: float = 0.0

    def run(self, queries: Sequence[Query], vectors: Sequence[Vectors | None]) -> list[list[Any]]:
        """Return each query's items; what may see the same items is searched together."""
        groups: dict[Where, list[int]] = defaultdict(list)
        for i, (query, vector) in enumerate(zip(queries, vectors, strict=True)):
            if vector is not None:
                groups[query.where(self.before_round)].append(i)
        results: list[list[Any]] = [[] for _ in queries]
        for where, members in groups.items():
            open_, n = members, (4 if self.keywords or self.variety else 2) * self.k + 8
            while open_:
                found = nearest(
                    self.truth,
                    self.index,
                    np.stack([vector for i in open_ if (vector := vectors[i]) is not None]),
                    where,
                    n,
                )
                for i, near in zip(open_, found, strict=True):
                    results[i] = self._choose(queries[i], [id_ for _, id_ in near], where)
                # Too many equal texts among the nearest: look further, until there is nothing further.
                pairs = zip(open_, found, strict=True)
                open_ = [i for i, near in pairs if len(results[i]) < self.k and len(near) == n]
                n *= 4
        return results

    def _choose(self, query: Query, near: list[str], where: Where) -> list[Any]:
        ranked = near
        if self.keywords:
            ranked = fuse([near, self.truth.by_words(query.text, where, len(near))])[: len(near)]
        known = self.truth.faces(ranked)
        seen, fit = set() if query.itself else {_plain(query.text)}, list[str]()
        for id_ in ranked:
            text, task = known[id_]
            if (task is None or task != query.task_id) and _plain(text) not in seen:
                seen.add(_plain(text))
                fit.append(id_)
        vectors = self.truth.vectors(fit) if self.variety else {}
        chosen = diverse(fit, vectors, self.k, self.variety)
        items = self.truth.items(chosen)
        return [items[id_] for id_ in chosen]


def _plain(text: str) -> str:
    return " ".join(text.split())
