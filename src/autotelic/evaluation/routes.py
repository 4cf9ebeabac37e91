"""Routes: which strategy answers which family, learned from outcomes, with a price on tokens.

A strategy is chosen for a family only where the tasks show it: the lower end of its paired gain over the plain one,
less what its tokens cost, has to be above zero. So a strategy that rests on a critic at chance is not chosen, and what
was never measured is answered plainly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from autotelic.core.words import Frozen
from autotelic.evaluation.measure import full_marks
from autotelic.evaluation.stats import Comparison, paired_bootstrap
from autotelic.store import StrategyRow

__all__ = ["Choice", "learn_routes"]


class Choice(Frozen):
    """What was found out about one strategy in one family."""

    family: str
    """Family of tasks."""
    strategy: str
    """Strategy, as it is written in a config."""
    gain: Comparison
    """Against the plain strategy on the same tasks."""
    tokens: float
    """More tokens an answer than the plain strategy, mean."""
    worth: float
    """Lower end of the gain less the price of the tokens, as a share."""
    chosen: bool
    """Whether it answers this family."""


def learn_routes(
    answers: Mapping[str, Sequence[StrategyRow]],
    *,
    price: float = 0.01,
    min_tasks: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Choice]:
    """Weigh each strategy in each family against the first one given.

    Args:
        answers: rows by strategy; the first strategy is the plain one.
        price: what a thousand tokens more must gain, as a share of right answers (0.01 is a point).
        min_tasks: fewest tasks of a family on which a strategy may be chosen.
        confidence: of the two-sided interval of a gain. It is divided among the strategies compared in a family
            (Bonferroni), so that trying many does not make one look good.
        seed: of the bootstrap.

    Returns:
        One row for each family and strategy but the plain one; in a family at most one is chosen.
    """
    plain, *others = answers
    careful = 1 - (1 - confidence) / max(1, len(others))
    before = {row.task_id: row for row in answers[plain]}
    found: list[Choice] = []
    for family in sorted({row.family for row in before.values()}):
        weighed = []
        for strategy in others:
            rows = [row for row in answers[strategy] if row.family == family and row.task_id in before]
            pairs = [(before[row.task_id], row) for row in rows]
            gain = paired_bootstrap(
                [full_marks(b.score) for b, _ in pairs],
                [full_marks(a.score) for _, a in pairs],
                confidence=careful,
                seed=seed,
            )
            if gain is None:
                continue
            tokens = fmean(_tokens(a) - _tokens(b) for b, a in pairs)
            worth = gain.low - price * max(0.0, tokens) / 1000
            weighed.append(
                Choice(family=family, strategy=strategy, gain=gain, tokens=tokens, worth=worth, chosen=False)
            )
        good = [one for one in weighed if one.worth > 0 and one.gain.n >= min_tasks]
        best = max(good, key=lambda one: one.worth, default=None)
        found += [one.model_copy(update={"chosen": one is best}) for one in weighed]
    return found


def _tokens(row: StrategyRow) -> int:
    return row.prompt_tokens + row.completion_tokens
