"""The generation-verification gap: is judging easier than solving, for this model, now?

Self-improvement lives on that gap: where the critic cannot tell right from wrong better than chance, filtering by it
teaches nothing (Mind the Gap, 2412.02674). Measured on trajectories whose score is known from the environment.

Deviations from the paper: (1) the verifier is our critic with a verdict and a confidence, not a re-weighting by
log-probabilities; (2) area under the curve and balanced accuracy stand beside the paper's gap, because the gap alone is
zero for a critic that accepts everything and undefined for one that accepts nothing; (3) critiques are made on a sample
with as many right as wrong answers, so the gap is carried over to the solver's true rate by Bayes' rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from autotelic.core.words import Frozen, Score
from autotelic.evaluation.stats import Estimate, auc, balanced_accuracy, estimate

__all__ = ["CHANCE", "Gap", "generation_verification_gap"]

CHANCE = 0.5
"""Area under the curve and balanced accuracy of a critic that knows nothing."""


class Gap(Frozen):
    """How the critic judges against how the solver solves."""

    solver: Estimate
    """Accuracy of the solver."""
    auc: Estimate | None
    """How well the critic's confidence ranks right above wrong; 0.5 is chance. `None` if all are right or all wrong."""
    balanced: Estimate | None
    """Balanced accuracy of the critic's verdicts; 0.5 is chance. `None` likewise."""
    accepted: float | None
    """Accuracy of the solver's answers that the critic would let pass; `None` if it lets none pass or is unmeasured."""
    gap: float | None
    """`accepted - solver`: the paper's gap for a verifier that filters."""
    judged: int
    """Trajectories with a known score and a verdict."""
    unjudged: int
    """Trajectories with a known score that the critic gave no verdict on."""
    message: str
    """The finding in one sentence."""

    @property
    def above_chance(self) -> bool:
        """Whether the critic is shown to tell right from wrong better than chance."""
        best = self.auc or self.balanced
        return best is not None and best.low > CHANCE


def generation_verification_gap(
    verdicts: Sequence[bool | None],
    confidences: Sequence[Score],
    solved: Sequence[bool | None],
    *,
    attempts: Sequence[Score] | None = None,
    confidence: float = 0.95,
) -> Gap | None:
    """Measure the critic on trajectories with known scores.

    Args:
        verdicts: the critic's word on each trajectory, `True` for "right", `None` for none.
        confidences: the critic's probability of "right", `None` for none.
        solved: whether the environment's checker found the answer right, `None` for no verdict (dropped).
        attempts: 1.0 or 0.0 for every attempt of the solver, judged or not, where the judged ones are a chosen sample.
        confidence: coverage of the intervals.

    Returns:
        The gap, or `None` if no trajectory has a known score.
    """
    known = [i for i, s in enumerate(solved) if s is not None]
    said, truth = [verdicts[i] for i in known], [solved[i] for i in known]
    everything = attempts if attempts is not None else [None if t is None else float(t) for t in truth]
    solver = estimate(everything, confidence=confidence)
    if solver is None or not known:
        return None
    area = auc([confidences[i] for i in known], truth, confidence=confidence)
    balanced = balanced_accuracy(said, truth, confidence=confidence)
    accepted = _accepted(said, truth, solver.mean)
    judged = sum(v is not None for v in said)
    return Gap(
        solver=solver,
        auc=area,
        balanced=balanced,
        accepted=accepted,
        gap=None if accepted is None else accepted - solver.mean,
        judged=judged,
        unjudged=len(known) - judged,
        message=_sentence(area, balanced, solver),
    )


def _accepted(said: Sequence[bool | None], truth: Sequence[bool | None], rate: float) -> float | None:
    right = [v for v, t in zip(said, truth, strict=True) if v is not None and t]
    wrong = [v for v, t in zip(said, truth, strict=True) if v is not None and not t]
    if not right or not wrong:
        return None
    passed_right = rate * sum(right) / len(right)
    passed = passed_right + (1 - rate) * sum(wrong) / len(wrong)
    return passed_right / passed if passed else None


def _sentence(area: Estimate | None, balanced: Estimate | None, solver: Estimate) -> str:
    best = area or balanced
    if best is None:
        return "The critic cannot be measured: its trajectories are all right, all wrong, or without a verdict."
    name = "AUC" if area else "balanced accuracy"
    figures = f"{name} {best.mean:.2f} [{best.low:.2f}, {best.high:.2f}] against {CHANCE:.2f} by chance"
    solving = f"the solver solves {solver.mean:.0%}"
    if best.low > CHANCE:
        return f"The critic tells right from wrong better than chance: {figures}; {solving}."
    if best.high < CHANCE:
        return f"The critic is worse than chance, look for a swapped verdict: {figures}; {solving}."
    return f"The critic does not tell right from wrong better than chance: {figures}; {solving}."
