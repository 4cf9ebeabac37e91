"""Statistics of scores: means, paired comparisons and rankings, each with its interval.

Free functions over plain data. Three rules hold everywhere. A score of `None` ("no verdict") is dropped, from both
sides of a pair, and counted; it is never a zero. Nothing measured gives `None`, never 0 or NaN. Equal input and seed
give equal output, so that every figure of a report can be computed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen, Score

__all__ = [
    "ROUNDING",
    "Comparison",
    "Estimate",
    "auc",
    "balanced_accuracy",
    "estimate",
    "paired_bootstrap",
    "sign_test",
    "wilson",
]

ROUNDING = 1e-9
"""Means of scores that differ by less are equal: 0.07 - 0.04 is not quite 0.03 in floating point."""

_CHUNK = 4_000_000  # cells of one resampling matrix: 32 MB of int64

Floats = NDArray[np.float64]


class Estimate(Frozen):
    """A mean (or a rate, or an area) with its interval."""

    n: int
    """Items it was measured on."""
    mean: float
    """Point estimate."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    dropped: int = 0
    """Items without a verdict, not among the `n`."""


class Comparison(Frozen):
    """Two policies on the same tasks."""

    n: int
    """Pairs in which both sides have a verdict."""
    before: float
    """Mean score of the first, over those pairs."""
    after: float
    """Mean score of the second, over those pairs."""
    gain: float
    """`after - before`."""
    low: float
    """Lower end of the bootstrap interval of the gain."""
    high: float
    """Upper end of the bootstrap interval of the gain."""
    wins: int = 0
    """Pairs in which the second is better."""
    losses: int = 0
    """Pairs in which the first is better."""
    sign_p: float = 1.0
    """One-sided p-value of the exact sign test: how likely so many wins are if both were equally good."""
    dropped: int = 0
    """Pairs left out because one side has no verdict."""

    def six(self) -> dict[str, float | int]:
        """Return the six figures that programs read: n, before, after, gain, low, high."""
        return self.model_dump(include={"n", "before", "after", "gain", "low", "high"})


def paired_bootstrap(
    before: Sequence[Score],
    after: Sequence[Score],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison | None:
    """Compare two score lists over the same tasks, task by task.

    The interval is the percentile bootstrap of the mean difference (Efron 1979), drawn over *tasks*: what both policies
    find easy or hard cancels out. It is too narrow where few pairs differ (four lucky wins and no loss give a lower end
    above zero), so the exact sign test comes with it and the gate asks both.

    Args:
        before: scores of the first policy, one a task.
        after: scores of the second, in the same task order.
        confidence: coverage of the two-sided interval, in (0, 1).
        resamples: bootstrap samples.
        seed: seed of the resampling.

    Returns:
        The comparison, or `None` if no pair has two verdicts.

    Raises:
        UsageError: the lists differ in length, or a parameter makes no sense.
    """
    if len(before) != len(after):
        raise UsageError(
            f"a paired comparison got {len(before)} scores before and {len(after)} after. It needs one of each for "
            "every task: pass the scores of the same tasks in the same order."
        )
    _check_confidence(confidence)
    if resamples < 1:
        raise UsageError(f"resamples is {resamples}; a bootstrap needs at least 1 (10000 is usual).")
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    if not pairs:
        return None
    table: Floats = np.asarray(pairs, dtype=np.float64)
    difference = table[:, 1] - table[:, 0]
    low, high = _percentile_interval(difference, confidence, resamples, seed)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    # fsum is exact, so that the order of the tasks changes no figure.
    mean_before, mean_after = (math.fsum(side) / len(pairs) for side in zip(*pairs, strict=True))
    return Comparison(
        n=len(pairs),
        before=mean_before,
        after=mean_after,
        gain=mean_after - mean_before,
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        sign_p=sign_test(wins, losses),
        dropped=len(before) - len(pairs),
    )


def sign_test(wins: int, losses: int) -> float:
    """Return the exact one-sided p-value that wins outnumber losses by chance; ties do not count.

    `P(X >= wins)` for X ~ Binomial(wins + losses, 1/2), in whole numbers; 1.0 when no pair differs.
    """
    if wins < 0 or losses < 0:
        raise UsageError(f"a sign test got {wins} wins and {losses} losses; both must be 0 or more.")
    n = wins + losses
    return sum(math.comb(n, k) for k in range(wins, n + 1)) / (1 << n)


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a rate (Wilson 1927), honest at 0 and 1, where the bootstrap has no width."""
    _check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"a rate got {successes} successes in {n} trials; it needs 0 <= successes <= n and n >= 1.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def estimate(
    scores: Sequence[Score], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Estimate | None:
    """Return the mean of the scores that exist: Wilson's interval if all are 0 or 1, else the percentile bootstrap."""
    _check_confidence(confidence)
    known = [s for s in scores if s is not None]
    if not known:
        return None
    values: Floats = np.asarray(known, dtype=np.float64)
    if bool(np.isin(values, (0.0, 1.0)).all()):
        low, high = wilson(int(values.sum()), len(known), confidence=confidence)
    else:
        low, high = _percentile_interval(values, confidence, resamples, seed)
    return Estimate(
        n=len(known), mean=math.fsum(known) / len(known), low=low, high=high, dropped=len(scores) - len(known)
    )


def auc(scores: Sequence[Score], labels: Sequence[bool | None], *, confidence: float = 0.95) -> Estimate | None:
    """Return how well `scores` rank true labels above false ones: 0.5 is chance, 1.0 is perfect; ties count half.

    The interval solves `|area - A| = z * se(A)` for A, with the Hanley-McNeil variance at A (Newcombe 2006, Statistics
    in Medicine 25:559, method 5): it keeps a width at 0 and 1, and needs no resampling.

    Returns:
        The area, or `None` unless both labels occur among the items that have a score and a label.
    """
    values, truth, dropped = _labelled(scores, labels)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    midranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    area = float((midranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))
    z = NormalDist().inv_cdf(0.5 + _check_confidence(confidence) / 2)
    return Estimate(
        n=len(values),
        mean=area,
        low=_auc_bound(area, 0.0, positives, negatives, z),
        high=_auc_bound(area, 1.0, positives, negatives, z),
        dropped=dropped,
    )


def balanced_accuracy(
    verdicts: Sequence[bool | None], labels: Sequence[bool | None], *, confidence: float = 0.95
) -> Estimate | None:
    """Return the mean of the hit rates on true and on false labels: 0.5 for whoever always says the same.

    The interval joins the two rates' Wilson intervals by the square-and-add rule (Zou and Donner 2008).

    Returns:
        The accuracy, or `None` unless both labels occur among the items that have a verdict and a label.
    """
    said, truth, dropped = _labelled([None if v is None else float(v) for v in verdicts], labels)
    hits = said == truth
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    low_gap = high_gap = mean = 0.0
    for right, n in ((int(hits[truth].sum()), positives), (int(hits[~truth].sum()), negatives)):
        low, high = wilson(right, n, confidence=confidence)
        mean += right / n / 2
        low_gap += (right / n - low) ** 2 / 4
        high_gap += (high - right / n) ** 2 / 4
    return Estimate(
        n=len(said), mean=mean, low=mean - math.sqrt(low_gap), high=mean + math.sqrt(high_gap), dropped=dropped
    )


def _percentile_interval(values: Floats, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    # Resampling n items is drawing multinomial counts over their distinct values: the same distribution, and three
    # columns instead of n for scores that are right or wrong.
    distinct, counts = np.unique(values, return_counts=True)
    n = len(values)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples, dtype=np.float64)
    step = max(1, _CHUNK // len(distinct))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        means[start : start + size] = rng.multinomial(n, counts / n, size=size) @ distinct / n
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _labelled(scores: Sequence[Score], labels: Sequence[bool | None]) -> tuple[Floats, NDArray[np.bool_], int]:
    if len(scores) != len(labels):
        raise UsageError(f"{len(scores)} scores came with {len(labels)} labels. Pass one label for every score.")
    kept = [(s, t) for s, t in zip(scores, labels, strict=True) if s is not None and t is not None]
    values = np.asarray([s for s, _ in kept], dtype=np.float64)
    return values, np.asarray([t for _, t in kept], dtype=np.bool_), len(scores) - len(kept)


def _auc_bound(area: float, edge: float, positives: int, negatives: int, z: float) -> float:
    """Bisect between the area and the edge for the value whose standard error just reaches the area."""
    half = (positives + negatives) / 2 - 1

    def beyond(a: float) -> bool:
        variance = a * (1 - a) * (1 + half * (1 - a) / (2 - a) + half * a / (1 + a)) / (positives * negatives)
        return abs(area - a) > z * math.sqrt(max(0.0, variance))

    near, far = area, edge
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (near, middle) if beyond(middle) else (middle, far)
    return (near + far) / 2


def _check_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}; it must lie between 0 and 1, for example 0.95.")
    return confidence
