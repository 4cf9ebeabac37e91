"""Routes on finished simulated runs: learned by a bandit, proved by the gate, used by `auto`."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.graphs import simulated
from typer.testing import CliRunner

from autotelic.cli.app import app
from autotelic.core.errors import UsageError
from autotelic.core.progress import Silent
from autotelic.core.words import Completion
from autotelic.evaluation import RoutesConfig, critic_gap
from autotelic.graphs import SelfPlay
from autotelic.graphs.actions import opened_suite
from autotelic.graphs.routing import learn_in_run
from autotelic.graphs.strategy_solver import current_routes, proofs_on
from autotelic.store import CritiqueRow, EvaluationRow, Ledger, PromptRow, RouteRow, StrategyRow

pytestmark = pytest.mark.e2e

VOTE = "self_consistency(n=5, batch=5)"
JUDGED = f"best_of({VOTE}, n=2, by='critic')"
"""Gains by the vote within, whatever the critic says."""
FAMILIES = ["chain_sum", "gcd"]
Copy = Callable[[int], Path]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[int, Path]:
    """Directories of runs of one and of two rounds; the critic of both is a coin."""
    root = tmp_path_factory.mktemp("played")
    runs = {rounds: root / f"run-{rounds}" for rounds in (1, 2)}
    environment = {"name": "reasoning_gym", "families": FAMILIES}
    with pytest.MonkeyPatch.context() as patch:
        simulated.install(patch.setattr, model)
        for rounds, run in runs.items():
            sizes = {"evaluate": {"fresh": 84}, "critique": {"episodes": 40}}
            config = simulated.small(rounds=rounds, environment=environment, **sizes)
            assert asyncio.run(SelfPlay(config, run).run()).champion == rounds
    return runs


@pytest.fixture
def copy(played: dict[int, Path], tmp_path: Path, simulate: Callable[[type[simulated.SimulatedTrainer]], None]) -> Copy:
    """Copies the run of so many rounds, to be written to; each call makes a new one."""
    simulate(simulated.SimulatedTrainer)
    return lambda rounds: Path(shutil.copytree(played[rounds], tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))


@contextmanager
def opened(run: Path) -> Iterator[Ledger]:
    ledger = Ledger(run / "ledger.sqlite")
    yield ledger
    ledger.close()


def invoke(*args: Any) -> Any:
    return json.loads(CliRunner().invoke(app, [*map(str, args), "--json"], catch_exceptions=False).stdout)


def learn(run: Path, strategies: str, *options: Any) -> Any:
    return invoke("strategies", "learn", run, "--strategy", strategies, "--price", 0, *options)


def test_routes_are_learned_proved_and_used_by_auto(copy: Copy) -> None:
    run = copy(2)
    found = learn(run, VOTE, "--policy", 1)
    assert (found["version"], found["learned_on"], found["proved_on"]) == (1, "fresh:1", "fresh:2")
    assert found["promoted"] and found["routes"] == dict.fromkeys(FAMILIES, VOTE) and found["evidence"]["n"] == 84
    with opened(run) as ledger:
        assert current_routes(ledger, 1) == (1, found["routes"])
        assert current_routes(ledger, 2) == (0, {}), "what was proved of one policy is not known of the next"
        learned = ledger.rows(StrategyRow, suite="fresh", round=1)
        assert len(learned) == sum(2 * one["gain"]["n"] for one in found["choices"]) < 2 * 84, "decided before the end"
        assert found["reasons"][-1] == f"learned with {sum(row.calls for row in learned)} of 5000 calls"
    figures = invoke("eval", run, "--policy", 1, "--suite", "fresh:2", "--strategy", "direct,auto")["strategies"]
    assert figures[1]["gain"]["gain"] == pytest.approx(found["evidence"]["gain"]), "auto is what was proved"
    with opened(run) as ledger:
        rows = ledger.rows(StrategyRow, strategy="auto by routes 1")
        assert len(rows) == 84 and {len(row.drafts) for row in rows} == {5}


def test_auto_answers_by_the_routes_of_its_policy_and_anew_by_other_ones(copy: Copy) -> None:
    run = copy(2)
    place: Any = {"promoted": True, "learned_on": "", "proved_on": "", "choices": []}
    with opened(run) as ledger:
        for version, policy, family in ((7, 2, "gcd"), (8, 3, "chain_sum"), (9, 2, "chain_sum")):
            ledger.add([RouteRow(version=version, policy=policy, routes={family: VOTE}, **place)])
            if version != 7:
                invoke("eval", run, "--strategy", "auto")
        for version, family in ((7, "gcd"), (9, "chain_sum")):
            rows = ledger.rows(StrategyRow, strategy=f"auto by routes {version}")
            assert {(row.family == family, len(row.drafts)) for row in rows} == {(True, 5), (False, 0)}


def criticised(name: str, said: Sequence[Any]) -> list[CritiqueRow]:
    """Return what policy 1 said of answers: (verdict, confidence, truth) each."""
    return [
        CritiqueRow(trajectory_id=f"{name}/{i}", round=2, policy=1, family="gcd", verdict=v, confidence=c, truth=t)
        for i, (v, c, t) in enumerate(said)
    ]


def test_a_strategy_that_rests_on_a_critic_at_chance_is_not_used_though_its_vote_gains(copy: Copy) -> None:
    run = copy(2)
    with opened(run) as ledger:
        tossed: list[Any] = [(v, c, t) for v, c in (("right", 1.0), ("wrong", 0.0)) for t in (0.0, 1.0)] * 30
        ledger.add(criticised("coin", tossed))
    found = learn(run, f"{JUDGED},{VOTE}", "--policy", 1)
    assert set(found["routes"].values()) == {VOTE} and {one["strategy"] for one in found["choices"]} == {VOTE}
    (why,) = [reason for reason in found["reasons"] if JUDGED in reason]
    assert "was not weighed. The critic does not tell right from wrong better than chance: AUC" in why
    alone = learn(run, JUDGED, "--policy", 1)
    assert (alone["routes"], alone["choices"], alone["promoted"]) == ({}, [], False)
    with opened(run) as ledger:
        gap = critic_gap(ledger, policy=1)
        assert gap is not None and not gap.above_chance and not ledger.rows(StrategyRow, strategy=JUDGED)
        said: list[Any] = [("right", 1.0, 1.0), ("wrong", 0.0, 0.0)] * 60
        ledger.add(criticised("one", said))
        gap = critic_gap(ledger, policy=1)
        assert gap is not None and gap.above_chance
    known = learn(run, JUDGED, "--policy", 1)
    assert set(known["routes"].values()) == {JUDGED} and known["promoted"], "with a critic that is good it is weighed"


def test_a_critic_that_was_never_measured_is_not_used(copy: Copy) -> None:
    found = learn(copy(2), JUDGED)
    assert found["policy"] == 2 and found["routes"] == {} and not found["promoted"]
    assert "No critique by policy-2 was ever compared with the checker." in found["reasons"][1]


def test_a_run_of_one_round_learns_on_half_of_its_tasks_and_proves_on_the_others(copy: Copy) -> None:
    run = copy(1)
    found = learn(run, VOTE)
    assert (found["learned_on"], found["proved_on"]) == (
        "fresh:1, half of its tasks",
        "fresh:1, other half of its tasks",
    )
    assert found["promoted"] and set(found["routes"].values()) == {VOTE}
    assert [one["gain"]["n"] for one in found["choices"]] == [21, 21] and found["evidence"]["n"] == 42
    with opened(run) as ledger:
        for strategy, families in (("direct", 2), (VOTE, len(found["routes"]))):
            answered = ledger.rows(StrategyRow, suite="fresh", round=1, strategy=strategy)
            assert len(answered) == 21 + 21 + 21 * families, "no task is in both halves"


def test_a_suite_that_is_not_there_is_named(copy: Copy) -> None:
    run = copy(2)
    for options in (("--on", 9), ("--prove", 9)):
        with pytest.raises(UsageError, match=r"no suite fresh:9\. It has: fresh:1, fresh:2"):
            learn(run, VOTE, *options)
    assert learn(run, VOTE, "--on", 2, "--policy", 0, "--calls", 1)["proved_on"] == "fresh:1"


def test_learning_keeps_to_its_calls(copy: Copy) -> None:
    run = copy(2)
    found = learn(run, VOTE, "--policy", 1, "--calls", 50)
    with opened(run) as ledger:
        made = sum(row.calls for row in ledger.rows(StrategyRow))
    assert 40 < made <= 50 and found["reasons"][-1] == f"learned with {made} of 50 calls"
    assert found["routes"] == {} and all(one["gain"]["n"] < 20 for one in found["choices"])


def test_learning_that_was_cut_off_goes_on_the_same_way_and_pays_only_the_rest(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = copy(2), copy(2)
    expected, made = learned_in(whole)
    complete = simulated.SimulatedModel.complete

    async def fails(self: simulated.SimulatedModel, *args: Any) -> list[Completion]:
        if self.calls == 100:
            raise RuntimeError("the line is cut")
        return await complete(self, *args)

    monkeypatch.setattr(simulated.SimulatedModel, "complete", fails)
    with pytest.raises(RuntimeError, match="the line is cut"):
        learned_in(cut)
    monkeypatch.setattr(simulated.SimulatedModel, "complete", complete)
    with opened(cut) as ledger:
        paid = sum(row.calls for row in ledger.rows(StrategyRow))
    assert 90 < paid <= 100
    again, rest = learned_in(cut)
    assert again.model_dump() == expected.model_dump() and rest == made - paid
    assert answers(cut) == answers(whole)
    assert learned_in(cut)[1] == 0, "what is known is asked no more"


def learned_in(run: Path, strategies: Sequence[str] = (VOTE,)) -> tuple[RouteRow, int]:
    """Learn routes for policy-1; return them with how many calls the model got."""

    async def learned() -> tuple[RouteRow, int]:
        async with opened_suite(run, "frozen", 1, memory=False, progress=Silent()) as (s, asked):
            row = await learn_in_run(s, strategies, asked.policy, RoutesConfig(price=0))
            return row, s.server.model.calls  # type: ignore[attr-defined]

    return asyncio.run(learned())


def answers(run: Path) -> list[tuple[Any, ...]]:
    with opened(run) as ledger:
        rows = ledger.rows(StrategyRow, order=("suite", "round", "strategy", "task_id"))
        return [(row.suite, row.round, row.strategy, row.task_id, row.answer, row.calls) for row in rows]


def test_each_proof_on_the_same_tasks_has_to_show_more(copy: Copy) -> None:
    run = copy(2)
    reasons = [learn(run, VOTE, "--policy", 1)["reasons"][0] for _ in range(2)]
    assert "lower bound at 0.95 is above" in reasons[0] and "lower bound at 0.975 is above" in reasons[1]
    assert "at 0.95 is above" in learn(run, VOTE, "--policy", 1, "--on", 2, "--prove", 1)["reasons"][0], "other tasks"
    proved: Any = {"policy": 1, "promoted": False, "learned_on": "", "evidence": {"n": 1}}
    with opened(run) as ledger:
        half = "fresh:2, other half of its tasks"
        ledger.add([RouteRow(version=8, proved_on=half, routes={}, choices=[], **proved)])
        other: Any = {"role": "critic", "prompts": {}, "reflector": "", "budget": 1, "calls": 1}
        ledger.add([PromptRow(version=1, proved_on="fresh:2", **other, **proved)])
        assert [proofs_on(ledger, policy, round) for policy, round in ((1, 2), (1, 1), (2, 2))] == [4, 1, 0]


def test_routes_lead_to_no_routes_nor_to_prompts_evolved_on_what_proves(copy: Copy) -> None:
    run = copy(2)
    with pytest.raises(UsageError, match="goes by the routes, so it can be none of them"):
        learn(run, f"{VOTE},self_consistency(auto, n=2)")
    learned: Any = {"role": "solver", "policy": 1, "promoted": True, "proved_on": "fresh:1", "reflector": ""}
    with opened(run) as ledger:
        ledger.add([PromptRow(version=1, learned_on="fresh:2", prompts={}, budget=1, calls=1, **learned)])
    found = learn(run, f"prompted,{VOTE}", "--policy", 1)
    assert {one["strategy"] for one in found["choices"]} == {VOTE}
    assert "prompted was not weighed. Prompts were evolved on fresh:2" in found["reasons"][-2]


def test_a_suite_that_stays_is_answered_anew_once_the_memory_holds_more(copy: Copy) -> None:
    run = copy(2)
    for _ in range(2):
        invoke("eval", run, "--policy", 1, "--memory")
        invoke("eval", run, "--policy", 1, "--memory", "--strategy", "direct")
    with opened(run) as ledger:
        for table in (EvaluationRow, StrategyRow):
            assert set(ledger.column(table, "suite", memory=True, round=0)) == {"frozen, memory before round 3"}
        assert ledger.count(EvaluationRow, suite="frozen", memory=True) == 0
