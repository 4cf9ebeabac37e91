"""A user's agent, written against plain langchain, as the solver: recorded turn by turn and trained, unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.graphs.simulated import right_answer, small

from autotelic.core.errors import UsageError
from autotelic.core.words import Role, TrainingExample
from autotelic.graphs import Outcome
from autotelic.store import EpisodeRow, EvaluationRow, Ledger, ToolCallRow

pytestmark = pytest.mark.e2e

Play = Callable[..., tuple[Outcome, Ledger]]
AGENT = '''
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from tests.graphs.simulated import right_answer


@tool
def oracle(question: str) -> str:
    """Tell the answer to a question."""
    return right_answer(question)


@tool
def send(question: str) -> str:
    """Tell the world."""
    return "send has told it"


agent = create_agent(ChatOpenAI(model="any"), [oracle, send], system_prompt="You are my agent.")
'''
PLAIN = """
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph


def build():
    model = ChatOpenAI(model="any", temperature=0)

    async def speak(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("speak", speak)
    graph.add_edge(START, "speak")
    return graph


def broken():
    async def fall(state):
        raise ValueError("no bread today")

    graph = StateGraph(MessagesState)
    graph.add_node("fall", fall)
    graph.add_edge(START, "fall")
    return graph


number = 3
"""


def agent_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "my_agent.py"
    file.write_text(text)
    return str(file)


def test_an_agent_with_tools_is_recorded_and_trained(play: Play, tmp_path: Path) -> None:
    changes = {"solver": agent_file(tmp_path, AGENT) + ":agent", "solve": {"bare": 0.5, "samples": 3}}
    few = {"fresh": 14, "frozen": 4, "sealed": 2, "regression": 0, "two_by_two": 0}
    outcome, ledger = play(small(**changes, evaluate=few, gate={"min_tasks": 10}))
    assert outcome.champion > 0 and outcome.stop == "rounds"
    episodes = ledger.rows(EpisodeRow, order="id")
    for e in episodes:
        question = e.messages[-1]["content"]
        system = [m["content"] for m in e.messages if m["role"] == "system"]
        assert system[0] == "You are my agent." and len(system) == 2, "its own prompt, then the environment's"
        assert [t["function"]["name"] for t in e.tools] == ["oracle", "send"]
        assert [t["role"] for t in e.turns] == ["assistant", "tool", "tool"]
        said = json.loads(e.turns[0]["content"])
        assert [call["tool"] for call in said["calls"]] == ["oracle", "send"], "as it was generated"
        assert e.turns[0]["token_ids"] == list(e.turns[0]["content"].encode())
        assert e.turns[1]["content"] == right_answer(question)
        assert json.loads(e.text) == {"answer": e.answer}
    assert ledger.count(ToolCallRow, tool="oracle", ok=True) >= len(episodes)
    helped = [e for e in episodes if e.memory_ids]
    assert helped
    for e in helped:
        assert len(e.messages) == len(e.bare_messages) + 2 * len(e.memory_ids), "what memory added is not trained"

    written = (tmp_path / "run" / "policies" / "round-1.examples.jsonl").read_text().splitlines()
    examples = [TrainingExample.model_validate_json(line) for line in written]
    trained = [e for e in examples if e.role == Role.SOLVER]
    by_id = {e.id: e for e in episodes}
    for example in trained:
        source = by_id[example.source]
        assert [m.content for m in example.messages] == [m["content"] for m in source.bare_messages]
        assert list(example.tools) == source.tools and example.completion == source.text
        assert [m.content for m in example.turns] == [t["content"] for t in source.turns]


def test_an_agent_without_tools_is_one_turn(play: Play, tmp_path: Path) -> None:
    solver = agent_file(tmp_path, PLAIN) + ":build"
    outcome, ledger = play(
        small(solver=solver, rounds=1, propose={"tasks": 10}, evaluate={"fresh": 30, "frozen": 8, "sealed": 4})
    )
    assert outcome.stop == "rounds"
    episodes = ledger.rows(EpisodeRow)
    assert episodes and all(not e.turns and not e.tools and e.answer == e.text for e in episodes)
    assert any(e.score == 1.0 for e in episodes) and any(e.score == 0.0 for e in episodes)


def test_what_an_agent_does_wrong_is_data(play: Play, tmp_path: Path) -> None:
    solver = agent_file(tmp_path, PLAIN) + ":broken"
    quiet = dict.fromkeys(("min_diversity", "min_coverage", "max_text_drop", "below_base_rounds"))
    brief = {"rounds": 1, "alarms": quiet, "evaluate": {"fresh": 30, "frozen": 4, "sealed": 4}}
    _, ledger = play(small(solver=solver, **brief))
    found = {(row.reason, row.text) for row in ledger.rows(EvaluationRow)}
    found |= {(row.reason, row.text) for row in ledger.rows(EpisodeRow)}
    assert found == {("agent_failed_ValueError", "no bread today")}


@pytest.mark.parametrize(
    ("solver", "says"),
    [
        ("my_agent", "expected file.py:graph"),
        ("FILE:nobody", "has no 'nobody'"),
        ("FILE:number", "a int is no LangGraph graph"),
        ("nowhere.py:agent", "there is no file nowhere.py"),
    ],
)
def test_an_agent_that_cannot_be_built_is_one_clear_line(play: Play, tmp_path: Path, solver: str, says: str) -> None:
    file = agent_file(tmp_path, PLAIN)
    with pytest.raises(UsageError, match=says):
        play(small(solver=solver.replace("FILE", file)))


def test_an_agent_brings_its_own_tools() -> None:
    with pytest.raises(ValueError, match="brings its own tools"):
        small(solver="a.py:b", tools={"use": ["python"]})
