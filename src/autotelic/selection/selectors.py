"""Selectors rank what may be trained on and say why the rest is not. `Balanced` is the one of the first version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from autotelic.core.words import Frozen
from autotelic.selection.candidate import Candidate, Drop, by_worth

__all__ = ["Balanced", "Selection", "Selector"]


class Selection(Frozen):
    """A selector's decision: each candidate is in exactly one of the two."""

    ranked: tuple[str, ...]
    """Ids to train on, the most wanted first."""
    dropped: tuple[Drop, ...]
    """The others, each with a reason."""


class Selector(Protocol):
    """Ranks and drops training data, and says why."""

    def __call__(self, candidates: Sequence[Candidate], limit: int, /) -> Selection:
        """Return at most `limit` ids, ranked, and a drop for each of the others."""


class Balanced:
    """Takes from the families in turn, from each the candidate with most to learn from: p(1 - p), solve rate p.

    The order of the candidates does not matter. The reason of each drop is `over_limit`.
    """

    def __call__(self, candidates: Sequence[Candidate], limit: int, /) -> Selection:
        """Return the first `limit` in that order and drop the rest."""
        taken: dict[str, int] = defaultdict(int)
        turns: list[tuple[int, int, Candidate]] = []
        for worth, one in enumerate(by_worth(candidates)):
            family = one.example.family
            turns.append((taken[family], worth, one))
            taken[family] += 1
        order = [one for _, _, one in sorted(turns, key=lambda turn: turn[:2])]
        return Selection(
            ranked=tuple(one.id for one in order[: max(limit, 0)]),
            dropped=tuple(
                Drop(item_id=one.id, reason="over_limit", detail=f"{len(order)} candidates, at most {limit} are kept")
                for one in order[max(limit, 0) :]
            ),
        )
