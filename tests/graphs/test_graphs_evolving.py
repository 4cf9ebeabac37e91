"""Prompts evolved on a simulated run whose model heeds one instruction: which prompt is better is known."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.graphs import simulated
from tests.graphs.simulated import SimulatedModel
from typer.testing import CliRunner, Result

from autotelic.agents import Proposer
from autotelic.cli.app import app
from autotelic.core.config import load_config
from autotelic.core.errors import ServingError, UsageError
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Message
from autotelic.graphs import Config, Session, open_session
from autotelic.graphs.evolving import Plan, Reflector, evolve_in_run
from autotelic.graphs.solve import build_solve
from autotelic.graphs.strategy_solver import StrategySolver
from autotelic.serving import Gateway, Sampling, ScriptedBackend, TooLong
from autotelic.store import Ledger, PromptCallRow, PromptRow, StrategyRow

pytestmark = pytest.mark.e2e

BETTER = "Work it out twice before you answer."
ASKED = "write a new instruction for the assistant"


class Heeding(SimulatedModel):
    """Gets right what it is told to work out twice; asked for an instruction, it says one of `ideas`."""

    ideas: Sequence[str] = (BETTER,)
    watch: Callable[[int], object] = staticmethod(lambda calls: None)

    def _say(self, messages: Sequence[Message], sampling: Sampling, sample: int) -> str:
        self.watch(self.calls)
        if ASKED in messages[0].content:
            return random.Random(sampling.seed).choice(self.ideas)
        heeds = BETTER in messages[0].content
        if sampling.schema is not None and "verdict" in sampling.schema["properties"]:
            question, answer = messages[1].content.removeprefix("Task:\n").split("\n\nAnswer:\n")
            right = simulated.right_answer(question) == answer.split("\n\nIs the")[0]
            return json.dumps({"verdict": "right" if right and heeds else "wrong", "fault": "", "advice": ""})
        if sampling.schema is not None and not heeds:
            return "I would rather not."
        if sampling.schema is None and heeds:
            return simulated.right_answer(messages[-1].content)
        return super()._say(messages, sampling, sample)


@pytest.fixture
def heeding(copied: Path, monkeypatch: pytest.MonkeyPatch) -> type[Heeding]:  # that of the finished run is another one
    class Model(Heeding):
        pass

    monkeypatch.setattr(simulated, "SimulatedModel", Model)
    return Model


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


def evolve(run: Path, plan: Plan, reflector: Reflector | None = None) -> tuple[PromptRow, int]:
    """Evolve in a run, and say how many calls of its model that took."""

    async def work(s: Session) -> tuple[PromptRow, int]:
        row = await evolve_in_run(s, plan, reflector)
        return row, s.server.model.calls  # type: ignore[attr-defined]

    found: tuple[PromptRow, int] = asyncio.run(opened(run, work))
    return found


async def opened(run: Path, work: Any) -> Any:
    directory = RunDir(run)
    async with open_session(load_config(Config, directory.config), directory) as s:
        return await work(s)


def scripted(*said: str | Exception) -> Reflector:
    """A reflector that says or raises one after the other, the last one for ever."""
    left = list(said)

    def say(_messages: Sequence[Message], _sampling: Sampling) -> list[str]:
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, Exception):
            raise now
        return [now]

    return Reflector(Gateway(ScriptedBackend(say)), "elsewhere/model")


def rows(run: Path, table: type[Any], **equals: Any) -> list[Any]:
    ledger = Ledger(run / "ledger.sqlite")
    try:
        return ledger.rows(table, **equals)
    finally:
        ledger.close()


def test_a_better_prompt_is_found_proved_promoted_and_used(copied: Path, heeding: type[Heeding]) -> None:
    done = invoke("prompts", "evolve", copied, "--policy", 0, "--calls", 120, "--json")
    found = json.loads(done.stdout)
    assert found["promoted"] and (found["version"], found["parent"], found["reflector"]) == (1, None, "policy-0")
    assert (found["learned_on"], found["proved_on"], found["role"]) == ("fresh:1", "fresh:2", "solver")
    assert found["prompts"] == {"all": BETTER}
    gain = found["evidence"]["fresh"]
    assert gain["n"] == 40 and gain["low"] > 0 and gain["after"] == 1.0 and found["evidence"]["frozen"]["n"] == 24
    assert found["calls"] <= 120 and [(one["text"], one["chosen"]) for one in found["tried"]] == [
        ("", False),
        (BETTER, True),
    ]

    compare = ("eval", copied, "--policy", 0, "--strategy", "direct,prompted(self_consistency(n=2, batch=2))", "--json")
    direct, evolved = json.loads(invoke(*compare).stdout)["strategies"]
    assert evolved["accuracy"]["mean"] == 1.0 > direct["accuracy"]["mean"]
    assert invoke("eval", copied, "--strategy", "prompted").exit_code == 0
    ledger = Ledger(copied / "ledger.sqlite")
    named = {(row.policy, row.strategy) for row in ledger.rows(StrategyRow)}
    champion = ledger.champion().number
    assert (0, "prompted(self_consistency(n=2, batch=2)) by prompts 1") in named
    assert (champion, "prompted by prompts 0") in named, "what was proved of one policy is not known of another"
    ledger.close()

    with pytest.raises(UsageError, match="proves nothing any more"):
        invoke("prompts", "evolve", copied, "--policy", 0, "--on", 2, "--prove", 1)

    (listed,) = json.loads(invoke("prompts", "list", copied, "--json").stdout)
    assert listed["promoted"] and listed["evidence"] == found["evidence"]
    assert json.loads(invoke("prompts", "show", copied, 1, "--json").stdout) == found
    shown = invoke("prompts", "show", copied, 1).stdout
    assert "promoted for policy-0" in shown and BETTER in shown
    assert "fresh:1" in invoke("prompts", "list", copied).stdout

    again = json.loads(invoke("prompts", "evolve", copied, "--policy", 0, "--family", "gcd", "--json").stdout)
    assert (again["version"], again["parent"], again["promoted"]) == (2, 1, False), "it begins from what counts now"
    assert again["prompts"].keys() == {"all", "gcd"} and "did better" in again["reasons"][0]


def test_where_nothing_helps_nothing_is_promoted_and_no_call_goes_beyond_the_budget(
    copied: Path, heeding: type[Heeding]
) -> None:
    heeding.ideas = ("```\nHurry.\n```", "Guess!", "", "```\n\n```")
    for calls in (9, 14, 41, 60):
        row, made = evolve(copied, Plan(role="solver", policy=0, family="gcd", calls=calls))
        assert not row.promoted and row.evidence == {} and "did better" in row.reasons[0]
        assert made <= row.calls <= calls and row.prompts["gcd"].startswith("Reply with the answer only")
        assert {one["text"] for one in row.tried[1:]} <= {"Hurry.", "Guess!"}, "what is empty is not tried"
        assert all(one["tasks"] >= 3 for one in row.tried)
    again, made = evolve(copied, Plan(role="solver", policy=0, family="gcd", calls=60))
    assert made == 0 and again.version == row.version + 1, "what was asked before is read from the ledger"
    assert again.model_dump(exclude={"version"}) == row.model_dump(exclude={"version"})
    with pytest.raises(UsageError, match="8 calls are too few"):
        evolve(copied, Plan(role="solver", policy=0, calls=8))


def test_a_failed_call_ends_it_with_nothing_but_calls_written_and_it_goes_on_from_there(
    copied: Path, heeding: type[Heeding]
) -> None:
    plan = Plan(role="solver", policy=0, calls=90)
    heeding.ideas = ("Hurry.", "Guess!", BETTER)
    undisturbed, whole = evolve(Path(shutil.copytree(copied, copied.parent / "twin")), plan)
    paid = 0
    for most in (11, 24, 69):  # while learning, and while proving
        heeding.watch = staticmethod(cut_after(most))
        with pytest.raises(ServingError, match="the line is cut"):
            evolve(copied, plan)
        assert not rows(copied, PromptRow) and len(rows(copied, PromptCallRow)) > paid
        paid = len(rows(copied, PromptCallRow))
    heeding.watch = staticmethod(lambda calls: None)
    row, made = evolve(copied, plan)
    assert row.promoted and row == undisturbed
    assert len(rows(copied, PromptCallRow)) == paid + made == whole, "nothing is paid for twice"


def cut_after(most: int) -> Callable[[int], None]:
    def watch(calls: int) -> None:
        if calls > most:
            raise ServingError("the line is cut")

    return watch


async def test_cancelled_it_asks_nothing_more(copied: Path, heeding: type[Heeding]) -> None:
    async def work(s: Session) -> None:
        evolving = asyncio.create_task(evolve_in_run(s, Plan(role="solver", policy=0)))
        heeding.watch = staticmethod(lambda calls: evolving.cancel() if calls >= 50 else None)
        with pytest.raises(asyncio.CancelledError):
            await evolving
        heeding.watch = staticmethod(cut_after(0))  # from now on a call would be seen
        assert s.server.model.calls < 100  # type: ignore[attr-defined]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    await opened(copied, work)
    assert not rows(copied, PromptRow) and len(rows(copied, PromptCallRow)) >= 36, "what was paid for is kept"


def test_another_model_reflects_and_may_talk_nonsense_or_fail(copied: Path, heeding: type[Heeding]) -> None:
    plan = Plan(role="solver", policy=0, family="gcd", calls=60)
    nonsense = ("```", "\x00", "```\n[/INST] {}\n```", TooLong("too long"))
    row, made = evolve(copied, plan, scripted(*nonsense, f"Here it is:\n```\n{BETTER}\n```"))
    reflected = [one for one in rows(copied, PromptCallRow) if one.item.startswith("reflection/elsewhere/model/")]
    assert row.reflector == "elsewhere/model" and row.calls <= 60
    assert len(rows(copied, PromptCallRow)) == made + len(reflected), "the policy did not reflect"
    assert [one["text"] for one in row.tried if one["chosen"]] == [BETTER]
    assert not row.promoted and "10 pairs are fewer than min_tasks" in row.reasons[0], "one family has too few tasks"
    with pytest.raises(UsageError, match="no key"):
        evolve(copied, plan.model_copy(update={"family": "chain_sum"}), scripted("Hm.", UsageError("no key")))
    assert len(rows(copied, PromptRow)) == 1
    assert "[/INST] {}" in invoke("prompts", "show", copied, 1).stdout, "what a model writes is no markup"


def test_the_prompts_of_critic_and_proposer_are_evolved_too(copied: Path, heeding: type[Heeding]) -> None:
    settings = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(settings.replace("min_tasks: 30", "min_tasks: 10"))
    critic, _ = evolve(copied, Plan(role="critic", policy=0, calls=60))
    assert critic.promoted and critic.prompts == {"critic": BETTER}
    assert critic.evidence["fresh"]["before"] == 0.5 and critic.evidence["fresh"]["after"] == 1.0
    proposer, _ = evolve(copied, Plan(role="proposer", policy=0, calls=60))
    assert proposer.promoted and proposer.prompts == {"proposer": BETTER}
    assert proposer.evidence["fresh"]["before"] == 0.0 < proposer.evidence["fresh"]["low"]
    way = "best_of(n=8, by='critic')"
    done = invoke("eval", copied, "--policy", 0, "--strategy", f"{way},prompted({way})", "--json")
    _, evolved = json.loads(done.stdout)["strategies"]
    assert evolved["gain"]["low"] > 0, "a critic that knows chooses what is right"
    assert {row.strategy for row in rows(copied, StrategyRow)} == {way, f"prompted({way}) by prompts 1"}


async def test_what_is_trained_on_never_holds_an_evolved_prompt(copied: Path, heeding: type[Heeding]) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    place: Any = {"learned_on": "", "proved_on": "", "reflector": "", "budget": 1, "calls": 1, "promoted": True}
    ledger.add([PromptRow(version=1, role="solver", policy=0, prompts={"all": BETTER}, **place)])
    ledger.close()

    async def work(s: Session) -> None:
        await s.serve(0)
        task = s.ledger.suite("frozen")[0]
        state: Any = {"task": task, "recalled": [], "sampling": Sampling(n=2, seed=1, max_tokens=8)}
        solved = await build_solve(StrategySolver(s, "prompted")).ainvoke(state)
        assert [attempt.score for attempt in solved["attempts"]] == [1.0, 1.0], "it was asked under the evolved prompt"
        assert solved["bare_messages"][0].content == s.environment.system_prompt(task)
        writer = Proposer(s.server.gateway, s.environment, max_tokens=64, temperature=1.0, system=BETTER)
        (draft,) = await writer.draft(["an example"], n=1, seed=1)
        assert draft.completion.text.startswith("{") and draft.messages == s.proposer.messages()

    await opened(copied, work)


def test_what_cannot_be_evolved_is_said(copied: Path, heeding: type[Heeding]) -> None:
    wrong = {
        "no prompts are evolved for the role 'curator'": ("--role", "curator"),
        "goes with --role solver": ("--role", "critic", "--family", "gcd"),
        "no family 'primes'": ("--family", "primes"),
        "no suite fresh:9": ("--on", 9),
        "no suite 'fresh:9'": ("--prove", 9),
        "cannot be proved on it": ("--on", 2),
        "name one, e.g. openai/NAME": ("--base-url", "http://127.0.0.1:1/v1"),
    }
    for message, given in wrong.items():
        with pytest.raises(UsageError, match=message):
            invoke("prompts", "evolve", copied, *given)
    with pytest.raises(UsageError, match="no version 1 of its prompts"):
        invoke("prompts", "show", copied, 1)
    assert invoke("prompts", "list", copied).exit_code == 0
