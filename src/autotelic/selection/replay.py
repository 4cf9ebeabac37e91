"""Rows from earlier rounds and from a small real set, mixed in so that the new ones do not push out the old.

Source: arXiv 2404.01413, "Is Model Collapse Inevitable? Breaking the Curse of Recursion by Accumulating Real and
Synthetic Data": data that is kept beside new synthetic data bounds the error, data that is replaced does not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen, content_id
from autotelic.selection.candidate import Candidate, Drop, Gate

__all__ = ["Pool", "Replayed", "replay"]


@dataclass(frozen=True, slots=True)
class Pool:
    """Where rows may be replayed from."""

    name: str
    """What it is, e.g. `earlier` or `real`."""
    candidates: Sequence[Candidate]
    """What there is."""
    share: float
    """Share of the whole training set, new rows included, that should come from here; at least 0, below 1."""


class Replayed(Frozen):
    """What to train on beside the new rows."""

    rows: dict[str, tuple[Candidate, ...]]
    """Rows by pool, as many as the share asks for or as there are."""
    dropped: tuple[Drop, ...]
    """Rows of the pools that must not be trained on."""


def replay(new: Sequence[Candidate], pools: Sequence[Pool], *, contamination: Gate, seed: int) -> Replayed:
    """Draw from each pool its share, from the families in turn; the same seed and rows give the same draw.

    Args:
        new: the round's own rows; none of their examples is drawn again.
        pools: drawn from in order; a row in two pools is drawn once.
        contamination: gate against the evaluation suites, put before every pool. Suites may have changed since a row
            was first trained on.
        seed: of the draw.

    Raises:
        UsageError: the shares leave no room for new rows, or two pools have one name.
    """
    total = sum(pool.share for pool in pools)
    if total >= 1 or any(pool.share < 0 for pool in pools):
        raise UsageError(
            f"the replay shares are {', '.join(f'{p.name} {p.share:g}' for p in pools)}; none below 0 "
            "and a sum below 1 were expected. Lower them."
        )
    if len({pool.name for pool in pools}) < len(pools):
        raise UsageError("two replay pools have the same name; each needs its own. Rename one.")
    used = {one.example.id for one in new}
    rows: dict[str, tuple[Candidate, ...]] = {}
    dropped: dict[str, Drop] = {}
    for pool in pools:
        barred = {drop.item_id: drop for drop in contamination(pool.candidates)}
        dropped |= barred
        allowed = [one for one in pool.candidates if one.id not in barred]
        rows[pool.name] = _draw(allowed, round(len(new) * pool.share / (1 - total)), seed, used)
    return Replayed(rows=rows, dropped=tuple(dropped.values()))


def _draw(candidates: Sequence[Candidate], n: int, seed: int, used: set[str]) -> tuple[Candidate, ...]:
    """Take `n` rows, from the families in turn, and add their examples to `used`."""
    # One row for an example; which one is settled by id, so that the order of the pool does not matter.
    unused = {one.example.id: one for one in sorted(candidates, key=lambda one: one.id) if one.example.id not in used}
    taken: defaultdict[str, int] = defaultdict(int)
    turns: list[tuple[int, str, Candidate]] = []
    for lot, example in sorted((content_id(seed, example), example) for example in unused):
        family = unused[example].example.family
        turns.append((taken[family], lot, unused[example]))
        taken[family] += 1
    drawn = tuple(one for _, _, one in sorted(turns, key=lambda turn: turn[:2])[:n])
    used.update(one.example.id for one in drawn)
    return drawn
