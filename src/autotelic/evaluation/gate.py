"""The gate on policies: a candidate becomes champion only on statistical evidence.

Why a strict gate: what is promoted is inherited by every later round, what is wrongly refused costs one round. So the
burden of proof lies with the candidate on `fresh`, and a fall elsewhere blocks by its point estimate, not only when it
is significant.

How a fall is judged, and why. Asking the interval to *exclude* a fall beyond the margin would refuse every candidate on
suites of some hundred tasks (their intervals are wider than any sensible margin). Asking the interval to *show* the
fall would wave real falls through for the same reason. The point estimate has neither fault, and a candidate that has
passed `fresh` has a positive expected gain on suites like it, so that noise alone rarely blocks it. Only where a suite
has fewer pairs than `min_tasks`, one unlucky task weighs more than the margin; there the fall must be shown as well, by
the exact sign test on the losses. What the interval cannot exclude is always said in the reasons.

The margins are per round: many small falls are not the gate's business but `alarms.below_base`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from autotelic.core.words import Frozen
from autotelic.evaluation.stats import ROUNDING, Comparison, sign_test

__all__ = ["Decision", "GateConfig", "decide", "decide_wanted"]


class GateConfig(Frozen):
    """What the gate asks of a candidate."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the two-sided interval of a gain; the sign test must reach the same one-sided level,
    `(1 - confidence) / 2`."""
    min_tasks: int = Field(default=30, ge=1)
    """Fewest pairs on `fresh` that allow a promotion, and on any suite for its point estimate to be trusted alone."""
    frozen_margin: float = Field(default=0.03, ge=0, le=1)
    """Largest fall tolerated on `frozen`, as a share of the score (0.03 is three points)."""
    regression_margin: float = Field(default=0.05, ge=0, le=1)
    """Largest fall tolerated on `regression`."""
    safety_margin: float = Field(default=0.0, ge=0, le=1)
    """Largest fall tolerated on the safety suite."""
    max_dropped: float = Field(default=0.1, ge=0, le=1)
    """Largest share of pairs without a verdict; beyond it a comparison measures the checker, not the policy."""

    def asked_again(self, times: int) -> GateConfig:
        """Return what is asked where the same tasks have proved things so many times before.

        Each time half the error is left, so that all proofs on them together may err no more than two first ones.
        """
        return self.model_copy(update={"confidence": 1 - (1 - self.confidence) / 2 ** min(times, 20)})


class Decision(Frozen):
    """What the gate decided, in words a person can check."""

    promote: bool
    """Whether the candidate becomes champion."""
    reasons: tuple[str, ...]
    """One sentence with figures for every test that was made; those that block come first."""


def decide(
    config: GateConfig,
    *,
    fresh: Comparison | None,
    frozen: Comparison | None,
    regression: Comparison | None = None,
    safety: Comparison | None = None,
    has_regression: bool = False,
) -> Decision:
    """Decide about a candidate; every comparison is champion (before) against candidate (after) on the same tasks.

    Args:
        config: margins and confidence. The comparisons must have been made at `config.confidence`.
        fresh: new tasks of this round; the only suite on which a gain is asked for. `None`: not measured, no promotion.
        frozen: the fixed suite. `None`: not measured, no promotion.
        regression: past failures; `None` while there are none.
        safety: scores where 1 is safe; `None` where no safety suite is configured.
        has_regression: whether there are past failures: then `None` says that no answer has a verdict, and blocks.
    """
    return _all_of(
        [
            _gained(config, fresh),
            _held("frozen", frozen, config.frozen_margin, config, required=True),
            _held("regression", regression, config.regression_margin, config, required=has_regression),
            _held("safety", safety, config.safety_margin, config, required=False),
        ]
    )


def decide_wanted(
    config: GateConfig,
    *,
    fresh: Comparison | None,
    frozen: Comparison | None,
    regression: Comparison | None = None,
    has_regression: bool = False,
) -> Decision:
    """Decide about a candidate that a person wants, for what no suite measures: it must not fall anywhere.

    Args:
        config: see `decide`. `frozen_margin` holds for `fresh` too.
        fresh: see `decide`.
        frozen: see `decide`.
        regression: see `decide`.
        has_regression: see `decide`.
    """
    return _all_of(
        [
            _held("fresh", fresh, config.frozen_margin, config, required=True),
            _held("frozen", frozen, config.frozen_margin, config, required=True),
            _held("regression", regression, config.regression_margin, config, required=has_regression),
        ]
    )


def _all_of(tests: Sequence[tuple[bool, str] | None]) -> Decision:
    """Decide by all tests that were made; what stands in the way is said first."""
    made = [t for t in tests if t is not None]
    blocking = [reason for ok, reason in made if not ok]
    return Decision(promote=not blocking, reasons=(*blocking, *(reason for ok, reason in made if ok)))


def _gained(config: GateConfig, fresh: Comparison | None) -> tuple[bool, str]:
    if fresh is None:
        return False, "fresh: no task has a verdict for both policies, so there is no evidence of a gain"
    if fresh.n < config.min_tasks:
        return False, f"fresh: {fresh.n} pairs are fewer than min_tasks ({config.min_tasks}), too few to decide by"
    dropped = _too_many_dropped("fresh", fresh, config)
    if dropped:
        return False, dropped
    alpha = (1 - config.confidence) / 2
    sign = f"{fresh.wins} wins to {fresh.losses} losses, sign test p = {fresh.sign_p:.2g}"
    bound = f"fresh: {_figures(fresh)}: the lower bound at {config.confidence:.7g}"
    if fresh.low <= 0:
        return False, f"{bound} is not above zero ({sign})"
    if fresh.sign_p > alpha:
        return False, f"fresh: {_figures(fresh)}, but the sign test does not agree: {sign}, above {alpha:.3g}"
    return True, f"{bound} is above zero ({sign})"


def _held(
    suite: str, found: Comparison | None, margin: float, config: GateConfig, *, required: bool
) -> tuple[bool, str] | None:
    if found is None:
        unknown = f"{suite}: not measured (no task has a verdict for both policies), and it must not fall"
        return (False, unknown) if required else None
    dropped = _too_many_dropped(suite, found, config)
    if dropped:
        return False, dropped
    limit = f"the margin of {margin * 100:.1f} points"
    if -found.gain <= margin + ROUNDING:
        caveat = f"; a fall of {-found.low * 100:.1f} points cannot be excluded" if -found.low > margin else ""
        return True, f"{suite}: {_figures(found)}: no fall beyond {limit}{caveat}"
    if found.n >= config.min_tasks:
        return False, f"{suite}: {_figures(found)}: falls by more than {limit}"
    p, alpha = sign_test(found.losses, found.wins), 1 - config.confidence
    shown = f"{found.losses} lost to {found.wins} won on only {found.n} pairs, sign test p = {p:.2g}"
    if p <= alpha:
        return False, f"{suite}: {_figures(found)}: falls by more than {limit} ({shown})"
    return True, f"{suite}: {_figures(found)}: beyond {limit}, but not shown ({shown}, above {alpha:.3g})"


def _too_many_dropped(suite: str, found: Comparison, config: GateConfig) -> str | None:
    total = found.n + found.dropped
    if found.dropped <= config.max_dropped * total:
        return None
    return (
        f"{suite}: {found.dropped} of {total} pairs have no verdict, more than max_dropped ({config.max_dropped:.0%}): "
        "mend the checker first"
    )


def _figures(found: Comparison) -> str:
    return (
        f"{found.before:.1%} -> {found.after:.1%}, gain {found.gain * 100:+.1f} points "
        f"[{found.low * 100:+.1f}, {found.high * 100:+.1f}] on {found.n} pairs"
    )
