"""A run whose solver has tools: calls in the ledger, whole conversations in memory and training, refusals recorded."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import HashedWords, right_answer, small

from autotelic.agents import ToolPicker
from autotelic.core.config import load_config
from autotelic.core.errors import UsageError
from autotelic.core.plugins import load_source
from autotelic.core.words import Message, Role, TrainingExample
from autotelic.environments import make_environment, solved
from autotelic.graphs import Config, GraphContext, Outcome, build_ask
from autotelic.memory import Demonstration, Lesson, Memory
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.store import EpisodeRow, EvaluationRow, ExampleRow, Ledger, ToolCallRow
from autotelic.tools import Tool, Toolbox, open_toolbox

pytestmark = pytest.mark.e2e

Play = Callable[..., tuple[Outcome, Ledger]]
ROOT = Path(__file__).parents[2]
FILE = """
import autotelic
from tests.graphs.simulated import right_answer

@autotelic.tool
def oracle(question: str) -> str:
    "Tell the answer to a question."
    return right_answer(question)

@autotelic.tool(permission="network")
def send(question: str) -> str:
    "Tell the world."
    raise AssertionError("must not be called")
"""


@pytest.fixture
def played(play: Play, tmp_path: Path) -> tuple[Outcome, Ledger]:
    file = tmp_path / "house_tools.py"
    file.write_text(FILE)
    return play(small(tools={"use": [str(file)]}, solve={"bare": 0.5, "max_tokens": 64}))


def test_a_tool_in_a_file_is_used_recorded_and_learned(played: tuple[Outcome, Ledger], tmp_path: Path) -> None:
    outcome, ledger = played
    assert outcome.champion > 0 and outcome.stop == "rounds"
    episodes = ledger.rows(EpisodeRow, order="id")
    calls: dict[str, list[ToolCallRow]] = {}
    for row in ledger.rows(ToolCallRow, order=["owner", "index"]):
        calls.setdefault(row.owner, []).append(row)
    for e in episodes:
        assert [(c.tool, c.ok, c.reason) for c in calls[e.id]] == [("oracle", True, "ok"), ("send", False, "refused")]
        assert [t["role"] for t in e.turns] == ["assistant", "tool", "tool"]
        assert e.turns[1]["content"] == calls[e.id][0].content == right_answer(e.bare_messages[-1]["content"])
        assert e.turns[0]["token_ids"] == list(e.turns[0]["content"].encode()), "as the server gave them"
        assert json.loads(e.text) == {"answer": e.answer}
    evaluated = {f"eval/{r.suite}/{r.round}/{r.policy}/{r.memory}/{r.task_id}" for r in ledger.rows(EvaluationRow)}
    assert calls.keys() == {e.id for e in episodes} | evaluated

    by_id = {e.id: e for e in episodes}
    learned = list(ledger.rows(ExampleRow, origin="new", role="solver"))
    assert learned
    for example in learned:
        source = by_id[example.source]
        assert [(t["role"], t["content"]) for t in example.turns] == [(t["role"], t["content"]) for t in source.turns]
        assert example.completion == source.text and example.messages == source.bare_messages
    assert not ledger.rows(ExampleRow, origin="real"), "real examples show no calls"

    written = (tmp_path / "run" / "policies" / "round-1.examples.jsonl").read_text().splitlines()
    examples = [TrainingExample.model_validate_json(line) for line in written]
    offered = {e.role: [t["function"]["name"] for t in e.tools] for e in examples}
    assert offered[Role.SOLVER] == ["oracle"] and not offered.get(Role.PROPOSER)


def test_the_report_counts_calls_and_shows_them(played: tuple[Outcome, Ledger], tmp_path: Path) -> None:
    _, ledger = played
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for r in report["rounds"]:
        n = ledger.count(EpisodeRow, round=r["round"])
        assert r["tools"] == {"oracle": {"ok": n}, "send": {"refused": n}}
        assert [m["role"] for m in r["samples"][0]["messages"]][-3:] == ["assistant", "tool", "tool"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Calls of tools in episodes" in page and "send was not called" in page


MORE = """
@autotelic.tool
def divisor(question: str) -> str:
    "Find the Greatest Common Divisor (GCD) of these numbers."
    return "unknown"

@autotelic.tool
def letters(question: str) -> str:
    "How many times does the letter appear in the text?"
    return "unknown"
"""


def test_of_many_tools_each_task_is_offered_a_few_that_fit_it(play: Play, tmp_path: Path) -> None:
    file = tmp_path / "house_tools.py"
    file.write_text(FILE + MORE)
    tools = {"use": [str(file)], "pick": 2, "pinned": ["oracle"]}
    _, ledger = play(small(tools=tools, solve={"max_tokens": 64}, rounds=1))
    offered: dict[str, set[tuple[str, ...]]] = {}
    for episode in ledger.rows(EpisodeRow):
        offered.setdefault(episode.family, set()).add(tuple(t["function"]["name"] for t in episode.tools))
    assert offered["gcd"] == {("oracle", "divisor")} and offered["letter_counting"] == {("oracle", "letters")}
    assert all(len(names) == 2 and "oracle" in names for one in offered.values() for names in one)


async def test_a_question_is_offered_a_few_tools_too() -> None:
    asked: list[Sampling] = []

    def say(_: Sequence[Message], sampling: Sampling) -> list[str]:
        asked.append(sampling)
        return ['{"answer":"6"}']

    made = [
        Tool(name, name, {"type": "object", "properties": {}}, _nothing, permission="pure")
        for name in ("divisor", "letters", "dates")
    ]
    picker = ToolPicker(HashedWords(), 1)
    graph = build_ask(GraphContext(Gateway(ScriptedBackend(say)), toolbox=Toolbox(made), picker=picker))
    for question, name in (("the divisor of 6", "divisor"), ("what are dates", "dates")):
        assert (await graph.ainvoke({"question": question}))["answer"] == "6"
        assert [tool["function"]["name"] for tool in asked[-1].tools] == [name]


async def test_a_question_gets_examples_and_lessons_from_the_scopes_that_may_be_seen(tmp_path: Path) -> None:
    asked: list[Sequence[Message]] = []

    def say(messages: Sequence[Message], _: Sampling) -> list[str]:
        asked.append(messages)
        return ["6"]

    place: Any = {"environment": "e", "family": "gcd", "round": 0, "policy": 0}
    example = Demonstration(
        id="d", task_id="d", question="the divisor of 4 and 8", answer="4", score=1.0, trajectory_id="d", **place
    )
    lesson = Lesson(
        id="l", situation="a divisor of two numbers", advice="Try small ones.", right=("r",), wrong=("w",), **place
    )
    own = lesson.model_copy(update={"id": "o", "advice": "Mine: ask twice.", "scope": "user/ada"})
    memory = await Memory.open(tmp_path / "memory", HashedWords())
    try:
        await memory.add([example, lesson, own])
        gateway = Gateway(ScriptedBackend(say))
        context = GraphContext(gateway, memory=memory, demonstrations=2, lessons=2)
        for scopes, advice in (("run",), {"Try small ones."}), (("user",), {"Mine: ask twice."}):
            state = await build_ask(replace(context, scopes=scopes)).ainvoke({"question": "the divisor of 6 and 9"})
            lines = {line[2:] for line in asked[-1][0].content.split("\n") if line.startswith("- ")}
            assert lines == advice
            assert state["memory_ids"] == (["d", "l"] if scopes == ("run",) else ["o"])
            assert [m.content for m in asked[-1][1:3]] == (
                ["the divisor of 4 and 8", "4"] if scopes == ("run",) else ["the divisor of 6 and 9"]
            )
    finally:
        await memory.aclose()


async def _nothing(_: dict[str, Any]) -> str:
    return ""


RECIPES = """
def gcd(question):
    return "oracle", {"question": question}

def chain_sum(question):
    return "oracle", {"question": "Find the GCD of these numbers: 1, 1."}

def letter_counting(question):
    return None
"""


def demonstrations(run: Path) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(f"file:{run / 'memory' / 'memory.sqlite'}?mode=ro", uri=True)) as db:
        return [json.loads(body) for (body,) in db.execute("SELECT body FROM items")]


def test_real_examples_are_worked_and_kept_where_that_is_right(play: Play, tmp_path: Path) -> None:
    tools, recipes = tmp_path / "house_tools.py", tmp_path / "recipes.py"
    tools.write_text(FILE)
    recipes.write_text(RECIPES)
    given = {"tools": {"use": [str(tools)]}, "solve": {"max_tokens": 64}, "rounds": 1}
    play(small(**given, memory={"recipes": str(recipes)}))
    worked = [d for d in demonstrations(tmp_path / "run") if d["id"].startswith("real/")]
    assert {d["family"] for d in worked} == {"gcd"} and len(worked) == 3
    for d in worked:
        (call,) = json.loads(d["turns"][0]["content"])["calls"]
        assert call == {"tool": "oracle", "arguments": {"question": d["question"]}}
        assert d["turns"][1] == {**d["turns"][1], "role": "tool", "content": right_answer(d["question"])}
        assert json.loads(d["said"]) == {"answer": d["answer"]} and d["answer"] == right_answer(d["question"])
    broken = tmp_path / "broken.py"
    broken.write_text("def gcd(question):\n    return question.nothing\n")
    with pytest.raises(UsageError, match=r"the recipe 'gcd' of .*broken.py fails on .*AttributeError"):
        play(small(**given, memory={"recipes": str(broken)}), "other")


async def test_the_recipes_of_the_tools_config_work_their_tasks() -> None:
    config = load_config(Config, ROOT / "configs" / "tools.yaml")
    recipes = vars(load_source(str(ROOT / "configs" / "recipes.py")))
    environment = make_environment(config.environment)
    right: dict[str, list[bool]] = {}
    async with open_toolbox(config.tools) as toolbox:
        for task in environment.tasks(120, seed=5):
            call = recipes[task.family](task.question)
            if call is not None:
                result = await toolbox.call(*call)
                checked = await environment.check(task, environment.parse(task, result.content))
                right.setdefault(task.family, []).append(solved(checked.score))
    assert right.keys() == set(environment.families)
    assert {family for family, found in right.items() if sum(found) < 0.9 * len(found)} == set()


def test_memory_shows_whole_conversations(played: tuple[Outcome, Ledger], tmp_path: Path) -> None:
    _, ledger = played
    remembered = demonstrations(tmp_path / "run")
    assert remembered and all([t["role"] for t in d["turns"]] == ["assistant", "tool", "tool"] for d in remembered)
    helped = [e for e in ledger.rows(EpisodeRow, round=2) if e.memory_ids]
    assert helped
    for e in helped:
        shown = [m["role"] for m in e.messages]
        one = ["user", "assistant", "tool", "tool", "assistant"]
        assert shown == ["system", *one * len(e.memory_ids), "user"]
