"""Routes are learned only where tasks show that a strategy is worth its tokens, and on no more tasks than it takes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotelic.evaluation import Learned, RoutesConfig, learn_routes, search_routes
from autotelic.store import StrategyRow

PLAIN = "direct"


def rows(strategy: str, family: str, scores: list[float], tokens: int) -> list[StrategyRow]:
    return [
        StrategyRow(
            suite="fresh",
            round=1,
            policy=1,
            strategy=strategy,
            memory=False,
            task_id=f"{family}{i}",
            family=family,
            score=score,
            calls=1,
            prompt_tokens=tokens,
            completion_tokens=0,
            seconds=0.1,
        )
        for i, score in enumerate(scores)
    ]


def chosen(found: object) -> dict[str, str]:
    return {one.family: one.strategy for one in found if one.chosen}  # type: ignore[attr-defined]


def test_each_family_gets_what_is_worth_most_there() -> None:
    half = [float(i % 2) for i in range(60)]
    answers = {
        PLAIN: [*rows(PLAIN, "sums", half, 100), *rows(PLAIN, "words", half, 100)],
        "vote": [*rows("vote", "sums", [1.0] * 60, 300), *rows("vote", "words", half, 300)],
        "tree": [*rows("tree", "sums", [1.0] * 60, 9000), *rows("tree", "words", [1.0] * 60, 9000)],
    }
    found = learn_routes(answers)
    assert chosen(found) == {"sums": "vote", "words": "tree"} and len(found) == 4
    assert {one.tokens for one in found} == {200.0, 8900.0}
    dear = learn_routes(answers, RoutesConfig(price=0.1))
    assert chosen(dear) == {"sums": "vote"}, "nine thousand tokens now cost 90 points"
    assert chosen(learn_routes({PLAIN: answers[PLAIN]})) == {}
    without = learn_routes(answers, dropped=[("sums", "vote")])
    assert chosen(without) == {"sums": "tree", "words": "tree"} and [one.dropped for one in without].count(True) == 1


def test_few_tasks_show_nothing() -> None:
    answers = {PLAIN: rows(PLAIN, "sums", [0.0] * 12, 90), "vote": rows("vote", "sums", [1.0] * 12, 90)}
    few = learn_routes(answers, RoutesConfig(min_tasks=12))
    assert chosen(learn_routes(answers)) == {} and chosen(few) == {"sums": "vote"}


SCORES = st.lists(st.sampled_from([0.0, 1.0]), min_size=30, max_size=30)


@given(SCORES, SCORES, st.integers(0, 5000), st.floats(0, 0.1))
@settings(max_examples=40)
def test_what_is_chosen_gains_more_than_it_costs(
    before: list[float], after: list[float], more: int, price: float
) -> None:
    answers = {PLAIN: rows(PLAIN, "sums", before, 100), "vote": rows("vote", "sums", after, 100 + more)}
    (one,) = learn_routes(answers, RoutesConfig(price=price))
    assert one.chosen == (one.gain.low > price * more / 1000) and one.tokens == more


@cache
def answer(strategy: str, task: str, score: float, tokens: int, calls: int) -> StrategyRow:
    (row,) = rows(strategy, task.split("-")[0], [score], tokens)
    row.task_id, row.calls = task, calls
    return row


class World:
    """Answers tasks: each strategy is right with a chance of its own, for `calls` calls an answer."""

    def __init__(
        self,
        chances: Mapping[str, float],
        seed: int = 0,
        *,
        tokens: Mapping[str, int] | None = None,
        calls: Mapping[str, int] | None = None,
        families: Sequence[str] = ("sums",),
        n: int = 75,
    ) -> None:
        self.chances, self.seed, self.tokens, self.calls = chances, seed, tokens or {}, calls or {}
        self.tasks = {family: [f"{family}-{i}" for i in range(n)] for family in families}
        self.asked: list[tuple[str, str]] = []
        self.known: dict[tuple[str, str], StrategyRow] = {}
        self.fails_after: int | None = None

    async def ask(self, strategy: str, ids: Sequence[str]) -> list[StrategyRow]:
        return [self._answer(strategy, task) for task in ids]

    def _answer(self, strategy: str, task: str) -> StrategyRow:
        if (strategy, task) not in self.known:
            if len(self.asked) == self.fails_after:
                raise ConnectionError("the line is cut")
            self.asked.append((strategy, task))
            right = random.Random(f"{self.seed}/{strategy}/{task}").random() < self.chances[strategy]
            tokens, calls = self.tokens.get(strategy, 100), self.calls.get(strategy, 1)
            self.known[strategy, task] = answer(strategy, task, float(right), tokens, calls)
        return self.known[strategy, task]

    def search(self, **settings: float) -> Learned:
        return asyncio.run(search_routes(self.ask, self.tasks, list(self.chances), RoutesConfig(**settings)))  # type: ignore[arg-type]


def test_what_is_bad_is_dropped_early_and_what_is_best_stays() -> None:
    chances = {PLAIN: 0.3, "good": 0.8, "same": 0.3, "bad": 0.02}
    found = {}
    for seed in range(40):
        world = World(chances, seed)
        learned = world.search()
        found[seed] = chosen(learned.choices)
        assert "good" not in {one.strategy for one in learned.choices if one.dropped}
        assert learned.calls == len(world.asked) == len(set(world.asked)) <= 0.75 * len(chances) * 75
        for strategy in chances:  # every arm answered what the plain strategy answered, from the first task on
            taken = [task for name, task in world.asked if name == strategy]
            assert taken == world.tasks["sums"][: len(taken)]
    assert set(map(str, found.values())) == {"{'sums': 'good'}"}


def test_a_family_is_over_when_its_best_is_known() -> None:
    world = World({PLAIN: 0.1, "good": 0.9}, families=("sums", "words"))
    found = world.search()
    assert chosen(found.choices) == {"sums": "good", "words": "good"} and len(world.asked) == 2 * 2 * 21
    hopeless = World({PLAIN: 0.9, "bad": 0.1})
    assert chosen(hopeless.search().choices) == {} and len(hopeless.asked) == 2 * 21
    assert World({PLAIN: 0.5}).search() == Learned(choices=(), calls=0), "nothing is weighed, so nothing is asked"


def test_what_its_tokens_cost_more_than_it_gains_is_dropped() -> None:
    tokens = {"long": 9000, "short": 200}
    chances = {PLAIN: 0.2, "long": 0.9, "short": 0.6}
    assert chosen(World(chances, tokens=tokens).search(price=0).choices) == {"sums": "long"}
    dear = World(chances, tokens=tokens).search(price=0.1)
    assert chosen(dear.choices) == {"sums": "short"}
    (long,) = [one for one in dear.choices if one.strategy == "long"]
    assert long.dropped and long.gain.gain > 0.5 and long.gain.n == 21
    middle = World(chances, tokens=tokens).search(price=0.05)
    assert chosen(middle.choices) == {"sums": "short"}, "70 points for 44 are less than 40 for half a point"


def test_no_more_calls_are_made_than_were_given() -> None:
    price = {PLAIN: 1, "vote": 3, "tree": 7}
    for calls in (1, 40, 300, 1000):
        world = World(dict.fromkeys(price, 0.3), calls=price, families=("sums", "words", "maps"))
        found = world.search(calls=calls)
        made = sum(price[name] for name, _ in world.asked)
        assert found.calls == made <= max(calls, 3 * sum(price.values())), "the first answers tell what one takes"
        assert made > calls - sum(price.values()) or calls == 1, "what was given is used"


def test_a_search_that_was_cut_off_goes_on_the_same_way_and_pays_only_the_rest() -> None:
    chances = {PLAIN: 0.3, "good": 0.55, "bad": 0.1}
    whole = World(chances, families=("sums", "words"))
    found = whole.search(calls=250)
    cut = World(chances, families=("sums", "words"))
    cut.fails_after = 77
    with pytest.raises(ConnectionError):
        cut.search(calls=250)
    cut.fails_after = None
    assert cut.search(calls=250) == found and cut.asked == whole.asked and len(set(cut.asked)) == len(cut.asked)
    assert cut.search(calls=250) == found and cut.asked == whole.asked, "and once more it pays nothing"


def test_equal_strategies_are_seldom_chosen() -> None:
    wrongly = 0
    for chance in (0.1, 0.5):
        equal = dict.fromkeys([PLAIN, *"abcdef"], chance)
        found = [World(equal, seed, n=60).search(price=0) for seed in range(40)]
        wrongly += sum(bool(chosen(one.choices)) for one in found)
    assert wrongly <= 80 / 40, "one end of the interval at 95% is one in forty, for all six together"
