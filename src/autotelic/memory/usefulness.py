"""What an item has been worth: attempts with it in the prompt against bare attempts at the same tasks.

A use is one attempt that saw the item; its gain is the attempt's score less the mean score of the bare attempts that
the same policy made at the same task. All items in a prompt share the gain. Old uses count less, so that what helped a
policy long gone neither keeps an item nor condemns it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import NormalDist, fmean
from typing import NamedTuple

from autotelic.core.words import Frozen

__all__ = ["Attempted", "Usefulness", "usefulness"]


class Attempted(NamedTuple):
    """One judged attempt."""

    task_id: str
    policy: int
    round: int
    memory_ids: tuple[str, ...]
    score: float


class Usefulness(Frozen):
    """What an item was worth."""

    uses: int
    """Attempts that saw it, at tasks that were attempted bare too."""
    gain: float
    """Mean gain, weighted by age, in [-1, 1]."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def usefulness(
    attempts: Iterable[Attempted], *, now: int, half_life: float = 4.0, confidence: float = 0.95
) -> dict[str, Usefulness]:
    """Return what each item was worth. Items never used, or only where no bare attempt can be compared, are left out.

    The interval is a normal one over the weighted gains and two more, +1 and -1, which keep it honest where uses are
    few or all alike (after Agresti and Caffo, "Simple and effective confidence intervals", 2000).

    Args:
        attempts: judged attempts, bare ones too.
        now: the round that asks.
        half_life: rounds after which a use counts half.
        confidence: of the two-sided interval.
    """
    attempts = list(attempts)
    bare: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in attempts:
        if not one.memory_ids:
            bare[one.task_id, one.policy].append(one.score)
    gains: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in attempts:
        if (alone := bare.get((one.task_id, one.policy))) and one.memory_ids:
            weight = 0.5 ** (max(0, now - one.round) / half_life)
            for id_ in set(one.memory_ids):
                gains[id_].append((one.score - fmean(alone), weight))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return {id_: _interval(found, z) for id_, found in sorted(gains.items())}


def _interval(gains: list[tuple[float, float]], z: float) -> Usefulness:
    padded = [*gains, (1.0, 1.0), (-1.0, 1.0)]
    total = sum(weight for _, weight in padded)
    mean = sum(gain * weight for gain, weight in padded) / total
    variance = sum(weight * (gain - mean) ** 2 for gain, weight in padded) / total
    half = z * math.sqrt(variance / total)
    own = sum(weight for _, weight in gains)
    return Usefulness(
        uses=len(gains),
        gain=sum(gain * weight for gain, weight in gains) / own,
        low=max(-1.0, mean - half),
        high=min(1.0, mean + half),
    )
