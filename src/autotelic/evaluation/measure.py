"""From ledger rows to comparisons: the one place where the gate and the report get their figures from.

Accuracy is the share of answers with full marks; partial credit is not counted, and an answer without a verdict is
`None`, not wrong. Because gate and report call the same functions with the same seed, their figures are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from autotelic.core.seeds import derive
from autotelic.core.words import Score
from autotelic.environments import solved
from autotelic.evaluation.gap import Gap, generation_verification_gap
from autotelic.evaluation.stats import Comparison, Estimate, estimate, paired_bootstrap
from autotelic.store import CritiqueRow, EpisodeRow, EvaluationRow, Ledger, RunRow

__all__ = [
    "Cells",
    "accuracy",
    "answers",
    "bootstrap_seed",
    "compare_policies",
    "critic_gap",
    "full_marks",
    "two_by_two",
]

Cells = dict[str, Estimate | None]
"""The 2x2: `old`, `old_memory`, `new`, `new_memory`."""


def full_marks(score: Score) -> Score:
    """Turn a score into an accuracy: 1.0 for full marks, 0.0 for less, `None` for no verdict."""
    return None if score is None else float(solved(score))


def answers(ledger: Ledger, suite: str, round: int, policy: int, *, memory: bool = False) -> dict[str, EvaluationRow]:
    """Return a policy's answers to a suite, by task id. `round` is 0 for the suites that stay the same."""
    rows = ledger.rows(EvaluationRow, suite=suite, round=round, policy=policy, memory=memory, order="task_id")
    return {row.task_id: row for row in rows}


def bootstrap_seed(run_seed: int) -> int:
    """Return the seed of every resampling in a run, so that the gate's figures can be computed again."""
    return derive(run_seed, "bootstrap")


def compare_policies(
    ledger: Ledger, suite: str, round: int, before: int, after: int, *, confidence: float = 0.95
) -> Comparison | None:
    """Compare two policies zero-shot on the tasks of a suite that both have answered; `None` if there are none.

    Args:
        ledger: the run's ledger; its run row gives the seed of the bootstrap.
        suite: name of the suite.
        round: the suite's round, 0 for those that stay the same.
        before: number of the first policy.
        after: number of the second.
        confidence: coverage of the interval.
    """
    first, second = answers(ledger, suite, round, before), answers(ledger, suite, round, after)
    shared = [t for t in first if t in second]
    run = ledger.rows(RunRow)
    return paired_bootstrap(
        [full_marks(first[t].score) for t in shared],
        [full_marks(second[t].score) for t in shared],
        confidence=confidence,
        seed=bootstrap_seed(run[0].seed if run else 0),
    )


def accuracy(rows: Iterable[EvaluationRow], *, confidence: float = 0.95) -> Estimate | None:
    """Return the accuracy over evaluation rows, with its interval."""
    return estimate([full_marks(row.score) for row in rows], confidence=confidence)


def two_by_two(ledger: Ledger, round: int, old: int, new: int, *, confidence: float = 0.95) -> Cells | None:
    """Return the 2x2 on `fresh`: old and new weights, without and with memory, on the tasks that all four answered.

    Returns:
        The four accuracies, or `None` if no task has all four answers.
    """
    cells = {
        "old": answers(ledger, "fresh", round, old),
        "old_memory": answers(ledger, "fresh", round, old, memory=True),
        "new": answers(ledger, "fresh", round, new),
        "new_memory": answers(ledger, "fresh", round, new, memory=True),
    }
    shared = sorted(set.intersection(*(set(cell) for cell in cells.values())))
    if not shared:
        return None
    return {name: accuracy((cell[t] for t in shared), confidence=confidence) for name, cell in cells.items()}


def critic_gap(
    ledger: Ledger, round: int | None = None, *, policy: int | None = None, confidence: float = 0.95
) -> Gap | None:
    """Measure the critic of a round, or of a policy, against the checker; `None` if nothing was criticised."""
    of = {name: value for name, value in (("round", round), ("policy", policy)) if value is not None}
    rows = ledger.rows(CritiqueRow, order="trajectory_id", **of)
    attempts = [full_marks(score) for score in ledger.column(EpisodeRow, "score", **of)]
    return generation_verification_gap(
        [None if row.verdict is None else row.verdict == "right" for row in rows],
        [row.confidence for row in rows],
        [None if row.truth is None else solved(row.truth) for row in rows],
        attempts=attempts or None,
        confidence=confidence,
    )
