"""Whether a strategy asks the critic is told from its text; here the model is watched while it answers."""

from __future__ import annotations

import pytest
from tests.refinement.kit import JUDGE, Model, in_turn, judging, remembered, work

from autotelic.core.errors import UsageError
from autotelic.refinement import answer_task, build_strategy, consults_critic

STRATEGIES = {
    "direct": False,
    "guided(regex='critic')": False,
    "self_consistency(n=3)": False,
    "self_consistency(n=3, weigh='certainty')": False,
    "self_consistency(n=3, weigh='likelihood')": False,
    "self_consistency(n=3, weigh='critic')": True,
    "self_consistency(self_refine, n=2)": True,
    "best_of(n=2)": False,
    "best_of(direct(), n=2, by='critic')": True,
    "best_of(n=2, by='checker')": False,
    "universal(n=2)": False,
    "self_refine": True,
    "self_refine(direct, rounds=1)": True,
    "self_debug": False,
    "reflexion": True,
    "reflexion(tries=2)": True,
    "reflexion(by='checker', tries=2)": False,
    "reflexion(self_refine(), by='checker', tries=2)": True,
    "reflexion(best_of(n=2), by='checker', tries=2)": False,
    "monte_carlo(iterations=2)": True,
    "monte_carlo(iterations=2, by='checker')": False,
    "tree_of_thoughts(depth=1)": False,
    "debate(inner=best_of(n=2, by='critic'), rounds=1)": True,
    "debate(rounds=1)": False,
    "mixture(n=2)": False,
    "conversation(turns=1)": False,
    "plan_and_solve": False,
    "least_to_most": False,
    "prompted": False,
    "prompted(prompted(reflexion))": True,
    "few_shot(k=2)": False,
    "few_shot(self_refine, k=2)": True,
    "auto": False,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_strategy_asks_the_critic_where_its_text_says_so(strategy: str) -> None:
    model = Model(judging(lambda _: False, in_turn("4")))
    await answer_task(build_strategy(strategy), work(model, may_check=True, examples=remembered(4)))
    assert consults_critic(strategy) == bool(model.asks(JUDGE)) == STRATEGIES[strategy]


def test_what_stands_outermost_is_looked_into_and_what_is_no_strategy_is_refused() -> None:
    assert consults_critic("adapted(self_refine)") and not consults_critic("adapted")
    assert not consults_critic("critic"), "it checks with tools"
    with pytest.raises(UsageError, match="It takes nothing"):
        consults_critic("direct(by='critic')")
