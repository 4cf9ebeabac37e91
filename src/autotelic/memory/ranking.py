"""How found items become a list: two rankings are fused, likeness is traded for variety, a budget of tokens is kept;
and which items go where there are too many.

Pure functions over ids and vectors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["diverse", "fuse", "least_diverse", "within"]

_RANK = 60


def fuse(rankings: Sequence[Sequence[str]]) -> list[str]:
    """Fuse rankings of ids: each gives an id 1 / (60 + its rank). Ties go by id.

    Source: Cormack, Clarke, Buettcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009.
    """
    scores: dict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, id_ in enumerate(ranking, 1):
            scores[id_] += 1 / (_RANK + rank)
    return sorted(scores, key=lambda id_: (-round(scores[id_], 12), id_))


def diverse(ranked: Sequence[str], vectors: dict[str, npt.NDArray[np.float32]], k: int, variety: float) -> list[str]:
    """Choose `k` ids one after another by rank, less `variety` times the likeness to the most alike chosen before.

    Source: Carbonell, Goldstein, "The Use of MMR", SIGIR 1998. Here the relevance is the rank (1 for the first, falling
    evenly to 0), so that rankings of any origin can be diversified.

    Args:
        ranked: ids, the best first.
        vectors: unit vectors of all of them.
        k: how many to choose.
        variety: 0 keeps the ranking, 1 looks at variety alone.
    """
    if variety <= 0 or len(ranked) <= 1:
        return list(ranked[:k])
    matrix = np.stack([vectors[id_] for id_ in ranked])
    relevance = 1 - np.arange(len(ranked)) / len(ranked)
    alike = np.zeros(len(ranked))
    left = np.ones(len(ranked), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(k, len(ranked))):
        worth = np.round((1 - variety) * relevance - variety * alike, 5)
        best = int(np.argmax(np.where(left, worth, -np.inf)))
        left[best] = False
        chosen.append(best)
        alike = np.maximum(alike, matrix @ matrix[best])
    return [ranked[i] for i in chosen]


def within(budget: int | None, texts: Sequence[str], count: Callable[[str], int]) -> list[int]:
    """Return the indices of texts that fit into `budget` tokens, each taken in turn if it still fits; `None`: all."""
    if budget is None:
        return list(range(len(texts)))
    kept: list[int] = []
    for i, text in enumerate(texts):
        if (size := count(text)) <= budget:
            kept.append(i)
            budget -= size
    return kept


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
