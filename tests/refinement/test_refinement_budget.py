"""What an answer costs adds up, a budget holds, and whatever fails inside, an answer comes out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.refinement.kit import Model, in_turn, judging, remembered, work

from autotelic.core.errors import DeliveryError, UsageError
from autotelic.core.words import Completion, Message
from autotelic.refinement import Answer, Budget, Meter, answer_task, build_strategy
from autotelic.serving import Gateway, Sampling, ScriptedBackend, TooLong, Unavailable
from autotelic.tools import Toolbox, tool

STRATEGIES = [
    "direct",
    "tool_loop",
    "self_consistency(n=6, batch=2)",
    "self_consistency(tool_loop, n=3, weigh='critic')",
    "best_of(n=3, by='critic')",
    "universal(n=3)",
    "self_refine(rounds=2)",
    "reflexion(tries=3)",
    "reflexion(best_of(plan_and_solve, n=2, by='critic'), tries=2)",
    "critic(rounds=2)",
    "plan_and_solve",
    "least_to_most",
    "tree_of_thoughts",
    "monte_carlo(iterations=5)",
    "debate(rounds=2)",
    "debate(self_refine, speakers=2, topology='ring')",
    "mixture(n=3, layers=2)",
    "few_shot",
    "self_consistency(few_shot(pool=6), n=6, batch=2)",
    "guided(regex='[0-9]+')",
    "contrastive",
    "self_debug",
    "conversation(turns=2)",
]


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


class Restless(Model):
    """Never settles, never accepts: every strategy does all that it can."""

    def __init__(self, **fails: object) -> None:
        self._said = self._calls = 0
        super().__init__(lambda _asked, _index: "", **fails)  # type: ignore[arg-type]

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        self._says = lambda _asked, _index: self._word(sampling)
        self._calls += 1
        for _ in range(self._calls % 3):  # calls side by side end in another order than they began
            await asyncio.sleep(0)
        return await super().complete(messages, sampling, policy)

    def _word(self, sampling: Sampling) -> str:
        self._said += 1
        asked_for = (sampling.schema or {}).get("properties", {})
        if "verdict" in asked_for:
            return json.dumps({"verdict": "wrong", "fault": "no", "advice": ""})
        if "questions" in asked_for:
            return json.dumps({"questions": ["one?", "two?"]})
        if "choice" in asked_for:
            return json.dumps({"choice": asked_for["choice"]["enum"][0]})
        if sampling.alternatives and self._said % 3 == 0:
            return ""
        if sampling.tools:
            called = {"calls": [{"tool": "double", "arguments": {"number": self._said}}]}
            return json.dumps(called if self._said % 2 else {"answer": str(self._said)})
        return str(self._said)


async def answered(strategy: str, model: Model, budget: Budget | None = None) -> Answer:
    rest: dict[str, Any] = {"toolbox": Toolbox([double]), "max_tokens": 8, "examples": remembered(6)}
    return await answer_task(build_strategy(strategy), work(model, budget, **rest))


def spent(model: Model) -> tuple[int, int]:
    """What the model itself counts: calls and tokens of the prompts."""
    return len(model.asked), sum(len(m.content.split()) for messages, _ in model.asked for m in messages)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_price_is_what_the_model_was_asked(strategy: str) -> None:
    model = Restless()
    answer = await answered(strategy, model)
    assert (answer.price.calls, answer.price.prompt_tokens) == spent(model)
    said = [completion for step in answer.steps for completion in step.completions]
    assert answer.price.completion_tokens == sum(len(completion.text.split()) for completion in said)
    assert answer.price.tokens == answer.price.prompt_tokens + answer.price.completion_tokens
    assert len(answer.steps) == answer.price.calls and answer.price.seconds > 0 and not answer.stopped


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_budget_of_calls_holds_at_every_size(strategy: str) -> None:
    whole = (await answered(strategy, Restless(), Budget(calls=1000))).price.calls
    for most in range(1, whole + 1):
        model = Restless()
        answer = await answered(strategy, model, Budget(calls=most))
        assert len(model.asked) <= most and answer.price.calls == len(model.asked)
        assert answer.stopped in ("calls", "")
        if most < whole:
            assert answer.stopped == "calls"
        else:
            assert not answer.stopped


@pytest.mark.parametrize(
    ("strategy", "calls"),
    [("tree_of_thoughts", 1), ("tree_of_thoughts", 14), ("contrastive", 1), ("monte_carlo", 1), ("mixture", 1)],
)
async def test_an_answer_that_is_there_when_a_budget_ends_comes_out(strategy: str, calls: int) -> None:
    model = Restless()
    answer = await answered(strategy, model, Budget(calls=calls))
    assert answer.stopped == "calls" and answer.text is not None and len(model.asked) == calls


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_budget_of_tokens_is_exceeded_by_one_call_at_most(strategy: str) -> None:
    whole = (await answered(strategy, Restless(), Budget(tokens=10**6))).price.tokens
    for most in range(1, whole, max(1, whole // 7)):
        answer = await answered(strategy, Restless(), Budget(tokens=most))
        sizes = [
            sum(len(m.content.split()) for m in step.messages) + sum(c.completion_tokens for c in step.completions)
            for step in answer.steps
        ]
        assert sum(sizes) == answer.price.tokens and sum(sizes[:-1]) < most
        assert answer.stopped == "tokens" or answer.price.tokens == whole


@pytest.mark.parametrize("error", [Unavailable, TooLong])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_whichever_call_fails_an_answer_comes_out_and_says_so(strategy: str, error: type[Exception]) -> None:
    whole = (await answered(strategy, Restless())).price.calls
    for at in range(1, whole + 1):
        model = Restless(fails_at=at, error=error)
        answer = await answered(strategy, model)
        said = "too_long" if error is TooLong else "the line is cut"
        assert len(model.asked) < at or said in answer.stopped
        assert answer.price.calls == len(model.asked) == len(answer.steps)
        assert answer.lost == (error is Unavailable and len(model.asked) >= at)
        assert sum(bool(step.failure) for step in answer.steps) == (len(model.asked) >= at)


async def test_time_ends_a_call_that_never_ends_and_the_best_draft_comes_out() -> None:
    class Stalling(ScriptedBackend):
        async def complete(self, messages: Sequence[Message], *args: object) -> list[Completion]:
            if "Answer again" in messages[-1].content:
                await asyncio.Event().wait()
            return await super().complete(messages, *args)  # type: ignore[arg-type]

    def say(messages: Sequence[Message], sampling: Sampling) -> list[str]:
        verdict = json.dumps({"verdict": "wrong", "fault": "", "advice": ""})
        return [verdict if sampling.schema else "4"] * sampling.n

    gateway = Gateway(Stalling(say))
    gateway.unblock(1)
    own = work(Restless())
    stalled = replace(own, meter=Meter(gateway, Budget(seconds=0.3)))
    answer = await answer_task(build_strategy("self_refine"), stalled)
    assert (answer.text, answer.stopped, answer.steps[-1].failure) == ("4", "seconds", "seconds")


async def test_a_try_that_was_not_judged_takes_nobodys_place() -> None:
    model = Model(judging(lambda _: False, in_turn("4", "Look again.", "5")))
    answer = await answer_task(build_strategy("reflexion(tries=3)"), work(model, Budget(calls=4)))
    assert (answer.text, answer.stopped, len(model.asked)) == ("4", "calls", 4)


async def test_a_policy_that_is_not_proved_stops_everything() -> None:
    model = Restless(fails_at=2, error=DeliveryError)
    with pytest.raises(DeliveryError):
        await answered("best_of(n=3, by='critic')", model)


async def test_a_strategy_that_cannot_be_used_says_so_and_is_no_failed_call() -> None:
    with pytest.raises(UsageError, match="no tools"):
        await answer_task(build_strategy("self_consistency(tool_loop, n=2)"), work(Restless()))


async def test_a_time_out_of_somebody_elses_is_not_the_budgets() -> None:
    async def late() -> None:
        raise TimeoutError("theirs")

    asked = work(Model(lambda text, index: "x"), Budget(seconds=60))
    with pytest.raises(TimeoutError, match="theirs"):
        await asked.within(late())
    assert asked.meter.tally.stopped == ""
