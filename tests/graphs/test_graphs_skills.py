"""`autotelic skills` on a finished simulated run: listed, shown, pinned, removed, made and measured by its champion."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import SimulatedModel, SimulatedTrainer, right_answer
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.cli.memory import opened
from autotelic.core.config import dump_config, load_config
from autotelic.core.dialect import answering
from autotelic.core.errors import UsageError, Waiting
from autotelic.core.run_dir import RunDir
from autotelic.graphs import Config, open_session
from autotelic.graphs.evaluating import fresh_suite
from autotelic.graphs.oversight import answer
from autotelic.graphs.toolsmithing import make_in_run
from autotelic.graphs.trials import open_workshop, solved_examples, trial_tasks
from autotelic.memory import Skill
from autotelic.memory._truth import Row
from autotelic.store import ApprovalRow, Ledger, SkillRow, SuiteRow, TrialRow
from autotelic.tools import load_tools

CODE = 'def backward(word):\n    """Spell a word backward."""\n    return word[::-1]'
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
WRITTEN = json.dumps(
    {
        "name": "backward",
        "parameters": [{"name": "word", "type": "string"}],
        "code": CODE,
        "tests": [{"arguments": [word], "result": word[::-1]} for word in ("tea", "oven", "stone")],
    }
)


def skill(id: str, **changes: Any) -> Skill:
    given: dict[str, Any] = {"id": id, "name": "backward", "description": "Spell a word backward.\nMore.", "code": CODE}
    given |= {
        "tests": (({"word": "tea"}, "aet"),),
        "parameters": SCHEMA,
        "family": "spell_backward",
        "gain": (0.3, 0.1, 0.5),
        "round": 1,
    }
    return Skill.model_validate(given | changes)


def hold(run: Path, *skills: Skill) -> None:
    """Put skills into a run's memory."""

    async def work() -> None:
        async with opened(run) as (memory, _):
            assert len((await memory.add(skills)).added) == len(skills)

    asyncio.run(work())


def held(run: Path) -> dict[str, tuple[Skill, Row]]:
    """The skills of a run's memory by id, and where they stand."""

    async def work() -> dict[str, tuple[Skill, Row]]:
        async with opened(run) as (memory, _):
            rows = await memory.rows()
            return {one.id: (one, rows[one.id]) for one in await memory.all("skill")}

    return asyncio.run(work())


@pytest.fixture
def shelved(copied: Path) -> Path:
    """A finished run that has two skills."""
    hold(copied, skill("one"), skill("two", name="other", family="gcd", gain=None, pinned=True))
    return copied


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the simulated model write a good function, and call it with the word of the question."""
    plain = SimulatedModel._say

    def say(self: SimulatedModel, messages: Any, sampling: Any, sample: int) -> str:
        if "You write Python functions" in messages[0].content:
            return WRITTEN if sample == 0 else "no function"
        names = [tool["function"]["name"] for tool in sampling.tools]
        if sampling.schema is None or "verdict" in json.dumps(sampling.schema):
            return plain(self, messages, sampling, sample)
        question = next(m.content for m in messages if m.role == "user")
        if messages[-1].role == "tool":
            return answering(messages[-1].content)
        if "backward" in names:
            call = {"tool": "backward", "arguments": {"word": right_answer(question)[::-1]}}
            return json.dumps({"calls": [call]})
        return answering("I do not know")

    monkeypatch.setattr(SimulatedModel, "_say", say)


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["skills", *map(str, args)], catch_exceptions=False)


def data(*args: object) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_skills_are_listed_and_shown(shelved: Path) -> None:
    assert [one["id"] for one in data("list", shelved)] == ["one", "two"]
    assert [one["id"] for one in data("list", shelved, "--family", "gcd")] == ["two"]
    listed = run("list", shelved).stdout
    assert "+30.0" in listed and "not" in listed
    ledger = Ledger(shelved / "ledger.sqlite")
    row = SkillRow(id="r1/made/x/0", round=1, family="x", policy=1, kind="made", skill_id="one", kept=True, text="t")
    ledger.add([row.model_copy(update={"reason": "gain", "detail": "it helps"})])
    ledger.close()
    shown = data("show", shelved, "one")
    assert shown["code"] == CODE and [d["detail"] for d in shown["decided"]] == ["it helps"]
    assert run("show", shelved, "backward").stdout.startswith(CODE)
    with pytest.raises(UsageError, match="there is no skill 'none'"):
        run("show", shelved, "none")


def test_people_pin_and_unpin(shelved: Path) -> None:
    assert data("pin", shelved, "one") == {"id": "one", "pinned": True} and held(shelved)["one"][0].pinned
    assert "yes" in run("list", shelved).stdout
    assert data("unpin", shelved, "backward") == {"id": "one", "pinned": False} and not held(shelved)["one"][0].pinned


def test_people_remove_what_they_do_not_want(shelved: Path) -> None:
    assert run("remove", shelved, "one").exit_code == 1 and "one" in held(shelved), "nobody said yes"
    assert data("remove", shelved, "one", "--yes") == {"removed": ["one"]} and list(held(shelved)) == ["two"]
    with pytest.raises(UsageError, match="there is no skill 'one'"):
        run("remove", shelved, "one", "--yes")


@pytest.mark.e2e
def test_the_champion_makes_a_skill_once_in_a_round(copied: Path, maker: None) -> None:
    rows = data("make", copied, "--family", "spell_backward")
    assert [(r["kept"], r["reason"]) for r in rows] == [(True, "gain"), *[(False, "not_json")] * 7]
    ((stored, _),) = held(copied).values()
    assert (stored.name, stored.family, stored.policy, stored.round) == ("backward", "spell_backward", 2, 2)
    assert rows[0]["skill_id"] == stored.id and stored.gain == pytest.approx((1.0, 1.0, 1.0))
    ledger = Ledger(copied / "ledger.sqlite")
    answers, tried = ledger.count(TrialRow), set(ledger.column(TrialRow, "task_id"))
    others = {row.task_id for row in ledger.rows(SuiteRow) if row.suite != "trial"}
    assert answers == 200 and len(tried) == 100 and not tried & others
    assert data("make", copied, "--family", "spell_backward") == rows and ledger.count(TrialRow) == answers
    assert data("measure", copied) == [], "it is of this very round"
    ledger.close()
    with pytest.raises(UsageError, match="no family 'flying'"):
        run("make", copied, "--family", "flying")


def test_where_a_person_decides_about_forgetting_a_skill_waits_for_it(shelved: Path) -> None:
    config = load_config(Config, shelved / "config.yaml", ["oversight=[forgetting]"])
    dump_config(config, shelved / "config.yaml")
    with pytest.raises(Waiting, match="delete 1 from the memory"):
        run("remove", shelved, "one", "--yes")
    assert "one" in held(shelved)
    ledger = Ledger(shelved / "ledger.sqlite")
    [asked] = ledger.rows(ApprovalRow, answer=None)
    answer(ledger, asked.id, True)
    ledger.close()
    assert data("remove", shelved, "one", "--yes") == {"removed": ["one"]} and "one" not in held(shelved)


@pytest.mark.e2e
def test_the_champion_measures_skills_of_earlier_rounds(copied: Path, maker: None) -> None:
    hold(copied, skill("one"), skill("bad", name="bad", family="gcd", code=CODE.replace("backward", "bad")))
    rows = {row["skill_id"]: row for row in data("measure", copied)}
    assert (rows["one"]["kept"], rows["one"]["reason"]) == (True, "no_harm")
    assert (rows["bad"]["kept"], rows["bad"]["reason"]) == (False, "no_gain"), "nobody calls it"
    found = held(copied)
    assert found["bad"][1].why and found["bad"][1].evicted == 2 and not found["one"][1].why
    assert found["one"][0].gain == pytest.approx((1.0, 1.0, 1.0))
    assert [one["id"] for one in data("list", copied)] == ["one"]


def test_what_is_tried_on_and_written_after_is_never_evaluated_on(
    copied: Path, simulate: Callable[[type[SimulatedTrainer]], None]
) -> None:
    async def look() -> None:
        run = RunDir(copied)
        async with open_session(load_config(Config, run.config), run) as s:
            examples = solved_examples(s, "gcd")
            tasks = trial_tasks(s, 2)
            assert trial_tasks(s, 2) == tasks and len(tasks) == 400
            assert set(s.environment.families) == {task.family for task in tasks}
            assert not {question for question, _ in examples} & {task.question for task in tasks}
            assert len(examples) == s.config.toolsmith.examples and all(right_answer(q) == a for q, a in examples)
            await fresh_suite(s, 3)
            assert not {t.id for t in s.ledger.suite("fresh", round=3)} & {t.id for t in tasks}

    asyncio.run(look())


def test_a_run_with_an_agent_of_its_own_makes_no_skills(copied: Path) -> None:
    async def look() -> None:
        run = RunDir(copied)
        async with open_session(load_config(Config, run.config), run) as s:
            s.config = s.config.model_copy(update={"solver": "agent.py:graph"})
            with pytest.raises(UsageError, match="brings its own tools"):
                await make_in_run(s, s.memory, "gcd")

    asyncio.run(look())


async def test_skills_are_tools_of_a_run_that_asks_for_them_and_no_part_of_their_own_trials(copied: Path) -> None:
    async with opened(copied) as (memory, _):
        await memory.add([skill("one")])
    config = load_config(Config, copied / "config.yaml", ["tools.use=[skills]"])
    with RunDir(copied).require().held() as run:
        async with open_session(config, run) as s:
            assert [tool.name for tool in s.toolbox.allowed] == ["backward"] and s.loop is not None
            found = await s.toolbox.call("backward", {"word": "tea"})
            assert (found.ok, found.content) == (True, "aet")
            await s.serve(s.ledger.champion().number)
            async with open_workshop(s, s.memory) as workshop:
                assert not workshop.toolbox.allowed
    async with opened(copied) as (memory, _):
        code = CODE.replace("backward", "sideways")
        await memory.add([skill("two", name="sideways", code=code, scope="user/mallory")])
    for scopes, names in (("[run]", ["backward"]), ("[run, user]", ["backward", "sideways"])):
        seen = load_config(Config, copied / "config.yaml", ["tools.use=[skills]", f"memory.scopes={scopes}"])
        with RunDir(copied).require().held() as run:
            async with open_session(seen, run) as s:
                assert [tool.name for tool in s.toolbox.allowed] == names, (
                    "a skill of a scope that is not seen is no tool"
                )
    with pytest.raises(UsageError, match="'skills' are a run's own"):
        load_tools("skills")
