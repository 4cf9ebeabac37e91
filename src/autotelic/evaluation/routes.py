"""Routes: which strategy answers which family, learned from outcomes by a bandit with a price on tokens.

In each family the strategies are arms. All that are still alive answer the same tasks as the plain strategy, a step at
a time, and an arm is dropped as soon as the plain strategy or another arm is shown to be worth more, tokens counted. Of
those that are left one is chosen only where the tasks show it: the lower end of its paired gain over the plain
strategy, less what its tokens cost, has to be above zero. What was never measured is answered plainly.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pydantic import Field

from autotelic.core.words import Frozen
from autotelic.evaluation.measure import full_marks
from autotelic.evaluation.stats import Comparison, paired_bootstrap, wilson
from autotelic.store import StrategyRow

__all__ = ["Choice", "Learned", "RoutesConfig", "learn_routes", "search_routes"]

Ask = Callable[[str, Sequence[str]], Awaitable[Sequence[StrategyRow]]]
"""Has a strategy answer tasks, given by their ids, and returns a row for each."""


class RoutesConfig(Frozen):
    """What a strategy has to show, and what finding out may cost."""

    price: float = Field(default=0.01, ge=0)
    """What a thousand tokens more must gain, as a share of right answers (0.01 is a point)."""
    calls: int = Field(default=5000, ge=1)
    """Calls of the model for learning. An answer that is in the ledger already counts like one that is made, so that
    what was cut off goes on the same way."""
    step: int = Field(default=20, ge=1)
    """Tasks of a family that are answered between two looks."""
    min_tasks: int = Field(default=20, ge=1)
    """Fewest tasks of a family on which a strategy may be dropped or chosen."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the two-sided intervals, for all strategies of a family together (Bonferroni), so that trying many
    does not make one look good."""


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
    dropped: bool = False
    """Whether it was given up before the tasks were over."""


class Learned(Frozen):
    """What a search found."""

    choices: tuple[Choice, ...]
    """One for each family and strategy but the plain one."""
    calls: int
    """Calls of the model behind the answers that were looked at."""


@dataclass
class _Family:
    """A family's tasks, and which strategies are still weighed on them."""

    tasks: Sequence[str]
    alive: list[str]
    rows: dict[str, list[StrategyRow]]
    asked: int = 0
    looks: int = 0
    settled: bool = False
    dropped: set[str] = field(default_factory=set)

    @property
    def open(self) -> bool:
        return bool(self.alive) and not self.settled and self.asked < len(self.tasks)


async def search_routes(
    ask: Ask,
    tasks: Mapping[str, Sequence[str]],
    strategies: Sequence[str],
    config: RoutesConfig | None = None,
    *,
    seed: int = 0,
) -> Learned:
    """Weigh strategies against the first one given, on no more tasks than it takes, and choose by `learn_routes`.

    Source: Even-Dar, Mannor and Mansour 2006, "Action Elimination and Stopping Conditions for the Multi-Armed Bandit
    and Reinforcement Learning Problems" (JMLR 7), successive elimination. Deviations:

    1. Arms answer the same tasks and are compared in pairs, gain less the price of the tokens; the plain strategy is
       one of them.
    2. The interval is Wilson's for wins and for losses, joined by Zou and Donner's rule (2008) with their correlation,
       instead of Hoeffding's bound, which on a hundred tasks drops nothing. Like there, the chance of an error is
       divided among arms and looks; the t-th look has the share 1/(t(t+1)).
    3. Each family is a bandit of its own, and all of them share a budget of calls. A step is made no longer than the
       calls that are left allow, if no answer takes more than the costliest so far; so only the first answers and
       surprises go beyond it. One task of each family comes first, to see what an answer takes.

    A family is over when no arm is alive, when one is and it is shown to be worth its tokens, or with its tasks.

    Args:
        ask: has a strategy answer tasks.
        tasks: ids by family, in the order in which they are taken.
        strategies: names; the first is the plain one.
        config: price, budget and care.
        seed: of the bootstrap in the choice.
    """
    config = config or RoutesConfig()
    plain, *arms = strategies
    families = {
        name: _Family(ids, list(arms), {strategy: [] for strategy in strategies}) for name, ids in tasks.items()
    }
    while plan := _plan(families, strategies, config):
        for strategy in strategies:
            ids = [
                task
                for name, n in plan.items()
                if strategy == plain or strategy in families[name].alive
                for task in families[name].tasks[families[name].asked :][:n]
            ]
            for row in await ask(strategy, ids) if ids else ():
                families[row.family].rows[strategy].append(row)
        for name, n in plan.items():
            families[name].asked += n
            _look(families[name], plain, config, len(arms))
    answers = {strategy: [row for one in families.values() for row in one.rows[strategy]] for strategy in strategies}
    dropped = [(name, arm) for name, one in families.items() for arm in one.dropped]
    choices = learn_routes(answers, config, dropped=dropped, seed=seed)
    return Learned(choices=tuple(choices), calls=sum(row.calls for rows in answers.values() for row in rows))


def learn_routes(
    answers: Mapping[str, Sequence[StrategyRow]],
    config: RoutesConfig | None = None,
    *,
    dropped: Collection[tuple[str, str]] = (),
    seed: int = 0,
) -> list[Choice]:
    """Weigh each strategy in each family against the first one given.

    Args:
        answers: rows by strategy, of all that were tried; the first strategy is the plain one.
        config: price and care.
        dropped: families and strategies that are not to be chosen.
        seed: of the bootstrap.

    Returns:
        One row for each family and strategy but the plain one; in a family at most one is chosen.
    """
    config = config or RoutesConfig()
    plain, *others = answers
    careful = 1 - (1 - config.confidence) / max(1, len(others))
    before = {row.task_id: row for row in answers[plain]}
    found: list[Choice] = []
    for family in sorted({row.family for row in before.values()}):
        weighed = []
        for strategy in others:
            pairs = _paired(before, [row for row in answers[strategy] if row.family == family])
            gain = paired_bootstrap(
                [full_marks(b.score) for b, _ in pairs],
                [full_marks(a.score) for _, a in pairs],
                confidence=careful,
                seed=seed,
            )
            if gain is None:
                continue
            weighed.append(
                Choice(
                    family=family,
                    strategy=strategy,
                    gain=gain,
                    tokens=_more_tokens(pairs),
                    worth=gain.low - _cost(pairs, config),
                    chosen=False,
                    dropped=(family, strategy) in dropped,
                )
            )
        good = [one for one in weighed if one.worth > 0 and one.gain.n >= config.min_tasks and not one.dropped]
        best = max(good, key=lambda one: one.worth, default=None)
        found += [one.model_copy(update={"chosen": one is best}) for one in weighed]
    return found


def _plan(families: Mapping[str, _Family], strategies: Sequence[str], config: RoutesConfig) -> dict[str, int]:
    """Return how many tasks each open family takes next; nothing where the budget is spent."""
    known = {name: [row.calls for one in families.values() for row in one.rows[name]] for name in strategies}
    left = config.calls - sum(sum(calls) for calls in known.values())
    plan: dict[str, int] = {}
    for name, family in families.items():
        if not family.open:
            continue
        if not family.asked:
            each, most = len(family.alive) + 1, 1
        else:
            each, most = sum(max(known[one]) for one in (strategies[0], *family.alive)), config.step
        n = min(most, len(family.tasks) - family.asked, max(0, left) // max(1, each))
        if n:
            plan[name] = n
            left -= n * each
    return plan


def _look(family: _Family, plain: str, config: RoutesConfig, arms: int) -> None:
    """Drop the arms that are shown to be worth less than the plain strategy or another arm."""
    if family.asked < config.min_tasks:
        return
    family.looks += 1
    careful = 1 - (1 - config.confidence) / (arms * family.looks * (family.looks + 1))
    rows = {name: {row.task_id: row for row in family.rows[name]} for name in (plain, *family.alive)}
    cost = {arm: _cost(_paired(rows[plain], family.rows[arm]), config) for arm in rows}

    def worth(arm: str, other: str) -> tuple[float, float]:
        low, high = _gain(_paired(rows[other], family.rows[arm]), careful)
        return low - cost[arm] + cost[other], high - cost[arm] + cost[other]

    left = [arm for arm in family.alive if all(worth(arm, other)[1] > 0 for other in rows if other != arm)]
    family.dropped |= set(family.alive) - set(left)
    family.alive = left
    family.settled = len(left) == 1 and worth(left[0], plain)[0] > 0


Pairs = Sequence[tuple[StrategyRow, StrategyRow]]


def _paired(before: Mapping[str, StrategyRow], rows: Sequence[StrategyRow]) -> Pairs:
    return [(before[row.task_id], row) for row in rows if row.task_id in before]


def _gain(pairs: Pairs, confidence: float) -> tuple[float, float]:
    """Return the interval of a paired gain; unlike the bootstrap's it has a width where no pair differs."""
    scores = [(full_marks(b.score), full_marks(a.score)) for b, a in pairs]
    known = [(b, a) for b, a in scores if b is not None and a is not None]
    if not known:
        return -1.0, 1.0
    n, wins, losses = len(known), sum(a > b for b, a in known), sum(a < b for b, a in known)
    won, lost = wins / n, losses / n
    (won_low, won_high), (lost_low, lost_high) = (wilson(k, n, confidence=confidence) for k in (wins, losses))
    together = 2 * math.sqrt(won * lost / ((1 - won) * (1 - lost))) if wins and losses else 0.0
    down = math.hypot(won - won_low, lost_high - lost) ** 2 + together * (won - won_low) * (lost_high - lost)
    up = math.hypot(won_high - won, lost - lost_low) ** 2 + together * (won_high - won) * (lost - lost_low)
    return won - lost - math.sqrt(down), won - lost + math.sqrt(up)


def _cost(pairs: Pairs, config: RoutesConfig) -> float:
    return config.price * max(0.0, _more_tokens(pairs)) / 1000


def _more_tokens(pairs: Pairs) -> float:
    return fmean(_tokens(a) - _tokens(b) for b, a in pairs)


def _tokens(row: StrategyRow) -> int:
    return row.prompt_tokens + row.completion_tokens
