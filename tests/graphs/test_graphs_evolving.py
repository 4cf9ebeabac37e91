"""Prompts evolved on a simulated run whose model heeds one thing in its prompt: which prompt is better is known."""

from __future__ import annotations

import asyncio
import json
import random
import re
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
from autotelic.graphs.acquire import propose
from autotelic.graphs.evolving import HEADING, Plan, Reflector, evolve_in_run
from autotelic.graphs.prompting import prompt_items
from autotelic.graphs.solve import build_solve
from autotelic.graphs.strategy_solver import StrategySolver
from autotelic.serving import Gateway, Sampling, ScriptedBackend, TooLong
from autotelic.store import EvaluationRow, Ledger, PromptCallRow, PromptRow, ProposalRow, RouteRow, StrategyRow, TaskRow

pytestmark = pytest.mark.e2e

BETTER = "Work it out twice before you answer."
ASKED = "write a new instruction for the assistant"


class Heeding(SimulatedModel):
    """Gets right what it is told to work out twice; asked for an instruction, it says one of `ideas`."""

    ideas: Sequence[str] = (BETTER,)
    heeded: str = BETTER
    hurt: str | None = None
    """What in its prompt makes it say nothing of use."""
    watch: Callable[[int], object] = staticmethod(lambda calls: None)

    def _say(self, messages: Sequence[Message], sampling: Sampling, sample: int) -> str:
        self.watch(self.calls)
        if ASKED in messages[0].content:
            return random.Random(sampling.seed).choice(self.ideas)
        heeds = self.heeded in messages[0].content
        if self.hurt is not None and self.hurt in messages[0].content:
            return "I cannot tell."
        if sampling.schema is not None and "verdict" in sampling.schema["properties"]:
            question, answer = messages[1].content.removeprefix("Task:\n").split("\n\nAnswer:\n")
            right = simulated.right_answer(question) == answer.split("\n\nIs the")[0]
            return json.dumps({"verdict": "right" if right and heeds else "wrong", "fault": "", "advice": ""})
        if sampling.schema is not None and "keep" in sampling.schema["properties"]:
            question, answer = messages[1].content.removeprefix("Example:\n").split("\n\nAnswer:\n")
            right = simulated.right_answer(question) == answer.split("\n\nKeep this")[0]
            return json.dumps({"keep": right or not heeds, "why": "clear"})
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
    assert found["prompts"].keys() == {"all"} and found["prompts"]["all"].startswith(BETTER)
    gain = found["evidence"]["fresh"]
    assert gain["n"] == 40 and gain["low"] > 0 and gain["after"] == 1.0 and found["evidence"]["frozen"]["n"] == 24
    assert found["calls"] <= 120 and found["tried"][0]["text"] == ""
    assert [one["by"] for one in found["tried"][:3]] == ["start", "examples", "reflection"]
    assert [one["by"] for one in found["tried"] if one["chosen"]] == ["reflection"]

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


def test_where_examples_help_and_reflection_does_not_they_are_found(copied: Path, heeding: type[Heeding]) -> None:
    heeding.ideas, heeding.heeded = ("Hurry.", "Guess!"), HEADING
    row, made = evolve(copied, Plan(role="solver", policy=0, calls=300))
    (chosen,) = [one for one in row.tried if one["chosen"]]
    assert row.promoted and made <= row.calls + 128 and row.calls <= 300 and row.prompts == {"all": chosen["text"]}
    assert chosen["by"] == "examples" and row.evidence["fresh"]["after"] == 1.0
    shown = examples_in(chosen["text"])
    assert len(shown) == 6 and all(simulated.right_answer(task) == right for task, right in shown)
    tasks = {task.question.strip(): task for task in asyncio.run(opened(copied, learned_from))}
    families = [tasks[question].family for question, _ in shown]  # none but what was learned on
    assert set(families[:4]) == set(simulated.FAMILIES), "every family has its turn"


def examples_in(prompt: str) -> list[list[str]]:
    """Questions and right answers that a prompt shows."""
    shown = prompt.partition(HEADING)[2]
    return [one.split("\nRight answer: ") for one in shown.removeprefix("\n\nTask: ").split("\n\nTask: ") if one]


async def learned_from(s: Session) -> list[Any]:
    """Tasks of `fresh:1` but for those that are held back when 300 calls may be made: half of the 40."""
    held = {item.id for item in prompt_items(s, "solver", "fresh", 1)[:20]}
    return [task for task in s.ledger.suite("fresh", round=1) if task.id not in held]


def test_no_prompt_holds_what_is_held_back_or_proved_on(copied: Path, heeding: type[Heeding]) -> None:
    heeding.ideas = ("Hurry.", "Guess!", "Think.", "Wait.")
    row, _ = evolve(copied, Plan(role="solver", policy=0, calls=300))
    known = {task.question.strip() for task in asyncio.run(opened(copied, learned_from))}
    prompts = [one["text"] for one in row.tried if one["by"] == "examples"]
    shown = [tuple(question for question, _ in examples_in(text)) for text in prompts]
    assert len(set(shown)) == len(shown) >= 5, "others each time"
    union = {question for one in shown for question in one}
    assert len(union) >= 14 and union <= known
    others = [task.question for task in rows(copied, TaskRow) if task.question.strip() not in known]
    assert len(others) > 80 and not any(question.strip() in text for question in others for text in prompts)
    refused = [one["tasks"] for one in row.tried if one["by"] == "examples" and one["tasks"] < 20]
    assert max(refused) == 7, "with 300 calls a prompt is tried on 7 tasks"


def test_where_examples_hurt_they_are_not_chosen(copied: Path, heeding: type[Heeding]) -> None:
    heeding.ideas, heeding.hurt = ("Hurry.", "Guess!", "Think."), HEADING
    row, _ = evolve(copied, Plan(role="solver", policy=0, calls=300))
    assert HEADING not in row.prompts["all"]
    spoiled = [one for one in row.tried if one["by"] == "examples"]
    assert len(spoiled) >= 5 and {one["score"] for one in spoiled} == {0} and max(one["tasks"] for one in spoiled) == 7


def test_partial_credit_guides_the_search_and_proves_nothing(
    copied: Path, heeding: type[Heeding], monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(self: Heeding, messages: Sequence[Message], sampling: Sampling, sample: int) -> str:
        if ASKED in messages[0].content:
            return BETTER
        nearly = f"{simulated.right_answer(messages[-1].content)} or so"
        return nearly if BETTER in messages[0].content else "I cannot tell."

    monkeypatch.setattr(heeding, "_say", say)
    row, _ = evolve(copied, Plan(role="solver", policy=0, family="gcd", calls=120))
    (chosen,) = [one for one in row.tried if one["chosen"]]
    assert chosen["text"].startswith(BETTER) and 0 < chosen["score"] < 1
    assert row.evidence["fresh"]["after"] == 0.0 and not row.promoted


def test_examples_leave_room_for_the_question(copied: Path, heeding: type[Heeding]) -> None:
    settings = (copied / "config.yaml").read_text()
    assert "max_model_len: 2048" in settings
    (copied / "config.yaml").write_text(settings.replace("max_model_len: 2048", "max_model_len: 240"))
    row, _ = evolve(copied, Plan(role="solver", policy=0, calls=120))
    prompts = [one["text"] for one in row.tried if one["by"] == "examples"]
    assert prompts and all(examples_in(text) and len(text) < 300 for text in prompts)


async def test_without_a_known_answer_a_verified_one_is_shown(copied: Path, heeding: type[Heeding]) -> None:
    async def work(s: Session) -> None:
        answered = {row.task_id: row for row in s.ledger.rows(EvaluationRow, suite="fresh", round=1, memory=False)}
        right = next(row for row in answered.values() if row.score == 1.0)
        never = {row.task_id for row in s.ledger.rows(EvaluationRow, suite="fresh", round=1, score=1.0)}
        wrong = next(row for row in answered.values() if row.task_id not in never)
        for task in s.ledger.rows(TaskRow, id=[right.task_id, wrong.task_id]):
            task.answer = None
            s.ledger.put(task)
        solved = {item.id: item.solved for item in prompt_items(s, "solver", "fresh", 1)}
        assert solved[right.task_id].endswith(f"\nRight answer: {right.answer}") and solved[wrong.task_id] == ""
        assert sum(map(bool, solved.values())) == len(solved) - 1

    await opened(copied, work)


def test_where_nothing_helps_nothing_is_promoted_and_no_call_goes_beyond_the_budget(
    copied: Path, heeding: type[Heeding]
) -> None:
    heeding.ideas = ("```\nHurry.\n```", "Guess!", "", "```\n\n```")
    for calls in (9, 14, 41, 60):
        row, made = evolve(copied, Plan(role="solver", policy=0, family="gcd", calls=calls))
        assert not row.promoted and row.evidence == {} and "did better" in row.reasons[0]
        assert made <= row.calls <= calls and row.prompts["gcd"].startswith("Reply with the answer only")
        reflected = {one["text"].partition("\n")[0] for one in row.tried if one["by"] == "reflection"}
        assert reflected <= {"Hurry.", "Guess!"}, "what is empty is not tried"
        assert all(one["tasks"] >= 2 for one in row.tried)  # a minibatch may hold one twice
    again, made = evolve(copied, Plan(role="solver", policy=0, family="gcd", calls=60))
    assert made == 0 and again.version == row.version + 1, "what was asked before is read from the ledger"
    assert again.model_dump(exclude={"version"}) == row.model_dump(exclude={"version"})
    with pytest.raises(UsageError, match="8 calls are too few"):
        evolve(copied, Plan(role="solver", policy=0, calls=8))


def test_a_failed_call_ends_it_with_nothing_but_calls_written_and_it_goes_on_from_there(
    copied: Path, heeding: type[Heeding]
) -> None:
    plan = Plan(role="solver", policy=0, calls=160)
    heeding.ideas = ("Hurry.", "Guess!", BETTER)
    undisturbed, whole = evolve(Path(shutil.copytree(copied, copied.parent / "twin")), plan)
    paid = 0
    for most in (16, 29, 99):  # while learning, and while proving
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
    assert [one["text"].partition("\n")[0] for one in row.tried if one["chosen"]] == [BETTER]
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


def test_critic_curator_and_proposer_learn_from_examples_too(copied: Path, heeding: type[Heeding]) -> None:
    heeding.ideas, heeding.heeded = ("Hurry.",), HEADING
    settings = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(settings.replace("min_tasks: 30", "min_tasks: 10"))
    critic, _ = evolve(copied, Plan(role="critic", policy=0, calls=60))
    own, _, shown = critic.prompts["critic"].partition(f"{HEADING}\n\n")
    assert critic.promoted and own.startswith("You check answers.")
    for one in shown.split("\n\nTask: "):
        task, answer, verdict = re.fullmatch(r"(.*)\nAnswer: (.*)\nVerdict: (right|wrong)", one, re.DOTALL).groups()  # type: ignore[union-attr]
        assert (simulated.right_answer(task) == answer) == (verdict == "right")
    assert shown.count("Verdict: right") == shown.count("Verdict: wrong") > 0
    curator, _ = evolve(copied, Plan(role="curator", policy=0, calls=60))
    assert curator.promoted and curator.evidence["fresh"]["before"] == 0.5 and curator.evidence["fresh"]["after"] == 1.0
    assert "Keep: true" in curator.prompts["curator"] and "Keep: false" in curator.prompts["curator"]
    proposer, _ = evolve(copied, Plan(role="proposer", policy=0, calls=60))
    assert proposer.promoted and HEADING in proposer.prompts["proposer"]
    written = proposer.prompts["proposer"].partition(f"{HEADING}\n\n")[2].split("\n\n")
    assert all(json.loads(one.removeprefix("Exercise: "))["family"] in simulated.FAMILIES for one in written)


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


async def test_the_loop_uses_what_was_promoted_for_its_champion_if_the_config_says_so(
    copied: Path, heeding: type[Heeding]
) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    place: Any = {"learned_on": "", "proved_on": "", "reflector": "", "budget": 1, "calls": 1, "promoted": True}
    roles = ("proposer", "critic", "curator")
    ledger.add(
        [PromptRow(version=i, role=role, policy=0, prompts={role: BETTER}, **place) for i, role in enumerate(roles)]
    )
    ledger.close()

    async def written(s: Session) -> int:
        """Tasks that the proposer has written in a round; nothing of an evolved prompt is kept with any."""
        await propose(s, 9, 0)
        found = s.ledger.rows(ProposalRow, round=9)
        own = [message.model_dump(mode="json", exclude_defaults=True) for message in s.proposer.bare()]
        assert all(row.messages == own for row in found) and BETTER not in str(own)
        assert (s.critic.messages("", "")[0].content == BETTER) == s.config.evolved_prompts
        assert (s.curator.messages("", "")[0].content == BETTER) == s.config.evolved_prompts
        await s.serve(1)
        assert BETTER not in str([s.critic.messages("", ""), s.curator.messages("", ""), s.proposer.messages()])
        return sum(row.reason != "not_json" for row in found if row.origin == "proposer")

    twin = Path(shutil.copytree(copied, copied.parent / "twin"))
    assert await opened(twin, written) == 0
    settings = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(settings.replace("evolved_prompts: false", "evolved_prompts: true"))
    assert await opened(copied, written) > 0


def test_what_cannot_be_evolved_is_said(copied: Path, heeding: type[Heeding]) -> None:
    wrong = {
        "no prompts are evolved for the role 'trainer'": ("--role", "trainer"),
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


def test_where_routes_were_proved_on_the_same_tasks_more_is_asked(copied: Path, heeding: type[Heeding]) -> None:
    proved: Any = {"promoted": False, "routes": {}, "choices": [], "evidence": {"n": 1}}
    ledger = Ledger(copied / "ledger.sqlite")
    ledger.add([RouteRow(version=1, policy=0, learned_on="fresh:1", proved_on="fresh:2", **proved)])
    ledger.close()
    found = json.loads(invoke("prompts", "evolve", copied, "--policy", 0, "--calls", 120, "--json").stdout)
    assert "lower bound at 0.975 is above zero" in found["reasons"][0]
