"""Matched rollouts with a scripted policy, the real environment and the real sandbox: who enters and who has to leave.

The policy spells words backward. Alone it is right in about a third of the tasks. Offered tools, it calls the first one
with the word of the question, and repeats what it is told unless that is "unknown".
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.graphs.shelf import Shelf
from tests.graphs.simulated import chance, right_answer

from autotelic.agents import Bounds
from autotelic.core.dialect import answering
from autotelic.core.words import Message, Task
from autotelic.environments import Environment, make_environment
from autotelic.evaluation import SkillGateConfig, paired_bootstrap
from autotelic.graphs.config import ToolsmithConfig
from autotelic.graphs.skill_library import SkillLibrary, find_skill, pin_skill, skills_of, with_skills
from autotelic.graphs.toolsmithing import make_skills, measure_again
from autotelic.graphs.trials import Workshop
from autotelic.memory.items import Skill
from autotelic.sandbox import Limits, Sandbox
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.store import Ledger, SkillRow, TrialRow
from autotelic.tools import Tool, Toolbox

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

FAMILY, TASKS = "spell_backward", 40
EXAMPLES = [("Spell this word backward: sun", "nus")]
BY_HEART = ("tea", "oven", "stone", "été")
GOOD = "return word[::-1]"
USELESS = "return 'unknown' if len(word) else None"
HARMFUL = "return word.upper()"
KNOWN = f"return {{one: one[::-1] for one in {BY_HEART}}}.get(word, word)"
HALF = "return word[::-1] if sum(map(ord, word)) % 2 else 'unknown'"


def function(line: str, name: str = "backward") -> str:
    return f'def {name}(word):\n    """Help with a word."""\n    {line}'


def value(line: str, word: str) -> Any:
    """What a line of ours gives, for the tests that the model writes after its own function."""
    scope: dict[str, Any] = {}
    exec(function(line), scope)
    return scope["backward"](word)


def written(line: str, name: str = "backward") -> str:
    tests = [{"arguments": [word], "result": value(line, word)} for word in (*BY_HEART, "")]
    parameters = [{"name": "word", "type": "string"}]
    return json.dumps({"name": name, "parameters": parameters, "code": function(line, name), "tests": tests})


class Gone(Exception):
    """The model is no longer there."""


class Policy(ScriptedBackend):
    """Writes the functions that it is given, and answers as said above."""

    def __init__(self, *functions: str, own: float = 0.3, calls: bool = True) -> None:
        self.functions, self.own, self.calls = functions, own, calls
        self.answers: list[tuple[str, Sampling]] = []
        self.fail_after = -1
        super().__init__(self._say)

    def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
        if "You write Python functions" in messages[0].content:
            return [self.functions[i % len(self.functions)] for i in range(sampling.n)]
        if 0 <= self.fail_after <= len(self.answers):
            raise Gone
        question = next(m.content for m in messages if m.role == "user")
        self.answers.append((question, sampling))
        right = right_answer(question)
        if self.calls and sampling.tools and messages[-1].role != "tool":
            called = {"tool": sampling.tools[0]["function"]["name"], "arguments": {"word": right[::-1]}}
            return [json.dumps({"calls": [called]})]
        told = messages[-1].content if messages[-1].role == "tool" else "unknown"
        guess = right if chance(question) < self.own else right + "?"
        return [answering(guess if told == "unknown" else told)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def box() -> AsyncIterator[Sandbox]:
    async with await Sandbox.open(limits=Limits(seconds=1.0)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def environment() -> Environment:
    return make_environment({"name": "reasoning_gym", "families": [FAMILY]})


@pytest.fixture(scope="module")
def tasks(environment: Environment) -> list[Task]:
    return environment.tasks(TASKS, seed=11)


@pytest.fixture
def workshop(box: Sandbox, environment: Environment, tmp_path: Path) -> Iterator[Workshop]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield Workshop(
        config=ToolsmithConfig(drafts=1, tasks=TASKS, gate=SkillGateConfig(min_tasks=30)),
        gateway=Gateway(ScriptedBackend(lambda _m, _s: [])),
        environment=environment,
        sandbox=box,
        ledger=ledger,
        shelf=Shelf(),
        toolbox=Toolbox(),
        bounds=Bounds(calls=2, turns=4, call_first=True),
        max_tokens=64,
        seed=5,
    )
    ledger.close()


def under(workshop: Workshop, policy: Policy, library: SkillLibrary | None = None, number: int = 3) -> Workshop:
    gateway = Gateway(policy)
    gateway.unblock(number)
    config = workshop.config.model_copy(update={"drafts": max(1, len(policy.functions))})
    return replace(workshop, gateway=gateway, config=config, shelf=library or workshop.shelf)


def skill(line: str, **changes: Any) -> Skill:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    given: dict[str, Any] = {"id": "old", "name": "backward", "description": "d", "code": function(line)}
    given |= {"parameters": schema, "family": FAMILY, "gain": (0.3, 0.1, 0.5), "tests": (({"word": "a"}, "a"),)}
    return Skill.model_validate(given | changes)


def shelf(library: SkillLibrary) -> Shelf:
    assert isinstance(library, Shelf)
    return library


# -- who enters


async def test_a_skill_enters_when_matched_rollouts_show_its_gain(workshop: Workshop, tasks: list[Task]) -> None:
    policy = Policy(written(GOOD))
    w = under(workshop, policy)
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks, round=2)
    assert (row.kept, row.reason, row.kind, row.policy, row.text) == (True, "gain", "made", 3, written(GOOD))
    (stored,) = await skills_of(w.shelf)
    assert (stored.id, stored.round, stored.policy, stored.family, stored.version) == (row.skill_id, 2, 3, FAMILY, 1)
    alone = [float(chance(task.question) < 0.3) for task in tasks]
    expected = paired_bootstrap(alone, [1.0] * TASKS, seed=0)
    assert expected is not None and stored.gain is not None
    assert stored.gain[0] == pytest.approx(expected.gain) and 0 < stored.gain[1] <= stored.gain[0] <= stored.gain[2]
    assert stored.fault == "" and row.evidence["called"] == row.evidence["n"] == TASKS


async def test_the_rollouts_are_matched(workshop: Workshop, tasks: list[Task]) -> None:
    policy = Policy(written(GOOD))
    w = under(workshop, policy)
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks, round=2)
    rows = w.ledger.rows(TrialRow, trial=row.trial)
    sides = {helped: {r.task_id: r for r in rows if r.helped is helped} for helped in (False, True)}
    assert sides[False].keys() == sides[True].keys() == {task.id for task in tasks}
    assert all(sides[False][id_].seed == sides[True][id_].seed for id_ in sides[True])
    assert {r.policy for r in rows} == {3} and {r.calls for r in sides[False].values()} == {0}
    assert {r.calls for r in sides[True].values()} == {1}
    asked = {bool(s.tools): s for _, s in policy.answers}
    for s in asked.values():
        assert (s.temperature, s.max_tokens, s.n) == (0.0, 64, 1) and s.schema is not None
    assert len(policy.answers) == 3 * TASKS, "one turn without, a call and an answer with"


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "useless": (USELESS, {}, "no_gain"),
    "harmful": (HARMFUL, {}, "no_gain"),
    "knows its tests by heart": (KNOWN, {}, "no_gain"),
    "what the policy can do already": (GOOD, {"own": 1.0}, "no_gain"),
    "never called": (GOOD, {"calls": False}, "never_called"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_shows_no_gain_does_not_enter(workshop: Workshop, tasks: list[Task], name: str) -> None:
    line, changes, reason = REFUSED[name]
    w = under(workshop, Policy(written(line), **changes))
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks, round=1)
    assert (row.kept, row.reason) == (False, reason), row.detail
    assert f"on {TASKS} tasks" in row.detail and await skills_of(w.shelf) == []
    assert w.ledger.count(TrialRow) == 2 * TASKS, "it was measured, on tasks that it had not seen"


async def test_a_rejected_function_is_a_row_and_is_not_measured(workshop: Workshop, tasks: list[Task]) -> None:
    hostile = json.loads(written(GOOD)) | {"code": function("__import__('os')._exit(0)")}
    w = under(workshop, Policy("no function", json.dumps(hostile)))
    rows = await make_skills(w, FAMILY, EXAMPLES, tasks, round=1)
    assert [(r.kept, r.reason, r.text) for r in rows] == [
        (False, "not_json", "no function"),
        (False, "crashed", json.dumps(hostile)),
    ]
    assert all(r.messages and r.detail and r.kind == "draft" for r in rows) and w.ledger.count(TrialRow) == 0


async def test_few_tasks_decide_nothing(workshop: Workshop, tasks: list[Task]) -> None:
    w = under(workshop, Policy(written(GOOD)))
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks[:29], round=1)
    assert (row.kept, row.reason) == (False, "too_few_tasks")


async def test_a_library_that_does_not_take_a_skill_is_heard(workshop: Workshop, tasks: list[Task]) -> None:
    w = under(workshop, Policy(written(GOOD)), Shelf(refuse="it was forgotten by a person"))
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks, round=1)
    assert (row.kept, row.reason) == (False, "not_stored") and "forgotten by a person" in row.detail


async def test_the_more_are_tried_the_higher_the_bar(workshop: Workshop, tasks: list[Task]) -> None:
    one = under(workshop, Policy(written(HALF)), Shelf())
    (alone,) = await make_skills(one, FAMILY, EXAMPLES, tasks, round=1)
    many = under(workshop, Policy(written(HALF), *(written(f"{USELESS} or {i}") for i in range(4))), Shelf())
    first = (await make_skills(many, FAMILY, EXAMPLES, tasks, round=2))[0]
    assert first.evidence["gain"] == alone.evidence["gain"]
    assert first.evidence["low"] < alone.evidence["low"]
    assert SkillGateConfig().among(5).confidence == pytest.approx(0.99)


# -- versions


async def test_a_new_version_has_to_beat_the_old_one_and_takes_its_place(workshop: Workshop, tasks: list[Task]) -> None:
    w = under(workshop, Policy(written(HALF), written(GOOD), written(f"{HALF} or None")))
    rows = await make_skills(w, FAMILY, EXAMPLES, tasks, round=4)
    assert [(r.kept, r.reason) for r in rows] == [(True, "gain"), (True, "gain"), (False, "no_gain")]
    (stored,) = await skills_of(w.shelf)
    assert (stored.version, stored.parent, stored.id) == (2, rows[0].skill_id, rows[1].skill_id)
    assert shelf(w.shelf).retired.keys() == {rows[0].skill_id}
    number, reason = shelf(w.shelf).retired[rows[0].skill_id]
    assert number == 4 and stored.id in reason
    assert rows[1].evidence["before"] == pytest.approx(rows[0].evidence["after"]), (
        "beside the first, not beside nothing"
    )


async def test_other_skills_are_there_on_both_sides(workshop: Workshop, tasks: list[Task]) -> None:
    there = skill(GOOD, id="there", name="a_first", code=function(GOOD, "a_first"))
    w = under(workshop, Policy(written(GOOD)), Shelf(there))
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks, round=1)
    assert (row.kept, row.reason, row.evidence["before"]) == (False, "never_called", 1.0)
    assert [one.id for one in await skills_of(w.shelf)] == ["there"]


async def test_a_name_of_another_tool_is_not_given_to_a_skill(workshop: Workshop, tasks: list[Task]) -> None:
    async def call(_: dict[str, Any]) -> str:
        return "unknown"

    own = Tool("backward", "d", {"type": "object", "properties": {"word": {}}}, call, permission="writes")
    w = replace(under(workshop, Policy(written(GOOD))), toolbox=Toolbox([own]))
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks, round=1)
    assert (row.kept, row.reason) == (False, "bad_name")


# -- who has to leave


async def test_a_skill_that_harms_is_retired(workshop: Workshop, tasks: list[Task]) -> None:
    w = under(workshop, Policy(), Shelf(skill(HARMFUL)))
    (row,) = await measure_again(w, tasks, round=6)
    assert (row.kept, row.reason, row.kind, row.skill_id) == (False, "harm", "again", "old")
    assert row.evidence["high"] < 0 and await skills_of(w.shelf) == []
    assert shelf(w.shelf).retired == {"old": (6, row.detail)}


async def test_a_skill_that_no_longer_gains_is_retired(workshop: Workshop, tasks: list[Task]) -> None:
    w = under(workshop, Policy(own=1.0), Shelf(skill(GOOD)))
    (row,) = await measure_again(w, tasks, round=6)
    assert (row.kept, row.reason) == (False, "no_gain") and "old" in shelf(w.shelf).retired


async def test_a_skill_that_gains_stays_and_says_what_was_measured_last(workshop: Workshop, tasks: list[Task]) -> None:
    w = under(workshop, Policy(own=0.5), Shelf(skill(GOOD)))
    (row,) = await measure_again(w, tasks, round=6)
    (stored,) = await skills_of(w.shelf)
    assert (row.kept, row.reason) == (True, "no_harm")
    assert stored.gain == (row.evidence["gain"], row.evidence["low"], row.evidence["high"]) != (0.3, 0.1, 0.5)
    assert row.evidence["after"] == 1.0


async def test_a_gain_that_is_not_shown_again_is_neither_harm_nor_news(workshop: Workshop, tasks: list[Task]) -> None:
    words = sorted((right_answer(task.question)[::-1] for task in tasks), key=chance)[:2]
    w = under(workshop, Policy(own=0.0), Shelf(skill(f"return word[::-1] if word in {words} else 'unknown'")))
    (row,) = await measure_again(w, tasks, round=6)
    assert (row.kept, row.reason) == (True, "no_harm") and row.evidence["gain"] > 0 == row.evidence["low"]
    (stored,) = await skills_of(w.shelf)
    assert stored.gain == (0.3, 0.1, 0.5)


async def test_a_pinned_skill_is_measured_and_stays(workshop: Workshop, tasks: list[Task]) -> None:
    w = under(workshop, Policy(), Shelf(skill(HARMFUL, pinned=True)))
    (row,) = await measure_again(w, tasks, round=6)
    assert (row.kept, row.reason) == (True, "harm") and row.detail.startswith("pinned by a person")
    assert [one.id for one in await skills_of(w.shelf)] == ["old"] and not shelf(w.shelf).retired


async def test_each_is_measured_beside_the_others(workshop: Workshop, tasks: list[Task]) -> None:
    twin = skill(GOOD, id="twin", name="twin", code=function(GOOD, "twin"))
    w = under(workshop, Policy(), Shelf(skill(GOOD), twin))
    rows = {row.skill_id: row for row in await measure_again(w, tasks, round=6)}
    assert (rows["old"].kept, rows["old"].reason) == (False, "no_gain"), "the twin does the same"
    assert (rows["twin"].kept, rows["twin"].reason) == (True, "no_harm"), "now it is alone"


async def test_each_is_measured_on_tasks_of_its_own_family(workshop: Workshop, tasks: list[Task]) -> None:
    far = skill(USELESS, id="far", name="far", code=function(USELESS, "far"), family="gcd")
    w = under(workshop, Policy(), Shelf(skill(HARMFUL), far))
    (row,) = await measure_again(w, tasks, round=6, family="gcd")
    assert (row.skill_id, row.kept, row.reason) == ("far", True, "not_measured")
    assert [one.id for one in await skills_of(w.shelf)] == ["old", "far"]


# -- going on


async def test_what_was_killed_goes_on_and_nothing_is_done_twice(workshop: Workshop, tasks: list[Task]) -> None:
    functions = [written(HALF), "no function", written(GOOD)]
    whole = under(replace(workshop, shelf=Shelf()), Policy(*functions))
    expected = [row.model_dump() for row in await make_skills(whole, FAMILY, EXAMPLES, tasks, round=1)]
    other = Ledger(Path(str(whole.ledger.url).removeprefix("sqlite:///")).with_name("other.sqlite"))
    policy, library = Policy(*functions), Shelf()
    killed = replace(under(workshop, policy, library), ledger=other)
    for stop in (7, 90, 150, 260):
        policy.fail_after = stop
        with pytest.raises(Gone):
            await make_skills(killed, FAMILY, EXAMPLES, tasks, round=1)
    policy.fail_after = -1
    found = await make_skills(killed, FAMILY, EXAMPLES, tasks, round=1)
    assert [row.model_dump() for row in found] == expected
    assert library.kept == shelf(whole.shelf).kept and library.retired == shelf(whole.shelf).retired
    before = len(policy.answers)
    assert [row.model_dump() for row in await make_skills(killed, FAMILY, EXAMPLES, tasks, round=1)] == expected
    assert len(policy.answers) == before and other.count(SkillRow) == 5
    other.close()


class Interrupted(Shelf):
    """A library that is killed after it has stored a skill."""

    times = 2

    async def retire(self, ids: Sequence[str], *, round: int, reason: str) -> list[str]:
        self.times -= 1
        if self.times >= 0:
            raise Gone
        return await super().retire(ids, round=round, reason=reason)


async def test_what_was_killed_while_it_was_stored_is_stored_once(workshop: Workshop, tasks: list[Task]) -> None:
    library = Interrupted(skill(HALF))
    policy = Policy(written(GOOD))
    w = under(workshop, policy, library)
    for _ in range(2):
        with pytest.raises(Gone):
            await make_skills(w, FAMILY, EXAMPLES, tasks, round=1)
        assert w.ledger.count(SkillRow, kind="made") == 0
        assert len(policy.answers) == 4 * TASKS, "no task is answered again"
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks, round=1)
    (stored,) = await skills_of(library)
    assert (row.kept, stored.id, stored.version, stored.parent) == (True, row.skill_id, 2, "old")
    assert library.retired.keys() == {"old"}


async def test_what_was_killed_while_it_was_retired_is_retired(workshop: Workshop, tasks: list[Task]) -> None:
    library, policy = Interrupted(skill(HARMFUL)), Policy()
    w = under(workshop, policy, library)
    for _ in range(2):
        with pytest.raises(Gone):
            await measure_again(w, tasks, round=6)
        assert len(policy.answers) == 3 * TASKS, "no task is answered again"
    (row,) = await measure_again(w, tasks, round=6)
    assert not row.kept and library.retired == {"old": (6, row.detail)}
    assert [one.id for one in await measure_again(w, tasks, round=6)] == [row.id], "it is still told what was decided"


async def test_two_policies_decide_nothing(workshop: Workshop, tasks: list[Task]) -> None:
    w = under(workshop, Policy(written(GOOD)))
    w.ledger.add(
        [
            TrialRow(
                trial=f"r1/made/{FAMILY}/0/policy-3", helped=False, task_id=tasks[0].id, round=1, policy=2, seed=0,
                text="", score=0.0, reason="wrong", calls=0,
            )
        ]
    )  # fmt: skip
    (row,) = await make_skills(w, FAMILY, EXAMPLES, tasks, round=1)
    assert (row.kept, row.reason, row.detail) == (
        False,
        "policy_changed",
        "policy-2 and policy-3 answered, not one policy",
    )


# -- the library's face


async def test_people_find_and_pin_skills_by_id_or_name() -> None:
    library = Shelf(skill(GOOD), skill(HALF, id="new", version=2, parent="old"), skill(GOOD, id="other", name="other"))
    assert [one.id for one in await skills_of(library)] == ["old", "new", "other"]
    assert (await find_skill(library, "backward")).id == "new" and (await find_skill(library, "old")).id == "old"
    assert (await pin_skill(library, "other", True)).pinned and (await find_skill(library, "other")).pinned
    assert not (await pin_skill(library, "other", False)).pinned
    with pytest.raises(Exception, match="there is no skill 'none'"):
        await find_skill(library, "none")


async def test_a_toolbox_with_skills_calls_them_in_the_sandbox(box: Sandbox) -> None:
    toolbox = with_skills(Toolbox(), [skill(GOOD)], box)
    assert [tool.name for tool in toolbox.allowed] == ["backward"]
    assert (await toolbox.call("backward", {"word": "abc"})).content == "cba"
    with pytest.raises(Exception, match="two tools are called 'backward'"):
        with_skills(toolbox, [skill(HALF)], box)
    assert with_skills(Toolbox(allow=["reads"]), [skill(GOOD)], box).allowed == (), "what is allowed, the run says"
