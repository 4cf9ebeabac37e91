"""A user's agent, written against plain langchain, as the solver: recorded turn by turn and trained, unchanged."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.graphs import simulated
from tests.graphs.simulated import SimulatedModel, right_answer, small

from autotelic.core.dialect import answering
from autotelic.core.errors import UsageError
from autotelic.core.words import Message, Role, TrainingExample
from autotelic.graphs import Outcome
from autotelic.serving import Sampling
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
from pathlib import Path

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
    model = ChatOpenAI(model="any", temperature=0)
    begun = Path(__file__).with_name("begun")

    async def fall(state):
        if not begun.exists():
            begun.touch()
            await model.ainvoke(state["messages"])
        raise ValueError("no bread today")

    graph = StateGraph(MessagesState)
    graph.add_node("fall", fall)
    graph.add_edge(START, "fall")
    return graph


def late():
    async def speak(state):
        return {"messages": [await ChatOpenAI(model="any", max_retries=0).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("speak", speak)
    graph.add_edge(START, "speak")
    return graph


def silent():
    graph = StateGraph(MessagesState)
    graph.add_node("speak", lambda state: {"messages": ["7"]})
    graph.add_edge(START, "speak")
    return graph


number = 3
"""
MODEL = "from langchain_openai import ChatOpenAI\n\nmodel = ChatOpenAI(model='any', max_retries=0)\n"
GRAPH = """
from langgraph.graph import START, MessagesState, StateGraph
from {model} import model


async def speak(state):
    return {{"messages": [await model.ainvoke(state["messages"])]}}


graph = StateGraph(MessagesState)
graph.add_node("speak", speak)
graph.add_edge(START, "speak")
"""
QUIET = dict.fromkeys(("min_diversity", "min_coverage", "max_text_drop", "below_base_rounds"))
BRIEF = {
    "rounds": 1,
    "alarms": QUIET,
    "propose": {"tasks": 10},
    "evaluate": {"fresh": 10, "frozen": 4, "sealed": 2, "regression": 0, "two_by_two": 0},
    "gate": {"min_tasks": 10},
}


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the modules and the path of this process as they were found."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.startswith("some_")]:
        del sys.modules[name]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is asked of the user's own provider."""
    asked: list[str] = []

    class Provider(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(500)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "a real one")
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


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

    written = sorted((tmp_path / "run" / "policies").glob("round-*.examples.jsonl"))[0].read_text().splitlines()
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
    _, ledger = play(small(solver=solver, **BRIEF))
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
        ("FILE:silent", "no model call of the agent .*:silent gets to the policy. Its model has to be made where"),
        ("FILE:late", "no model call of the agent .*:late gets to the policy .*ConnectionError: Connection error"),
    ],
)
def test_an_agent_that_cannot_work_is_one_clear_line(
    play: Play, provider: list[str], tmp_path: Path, solver: str, says: str
) -> None:
    file = agent_file(tmp_path, PLAIN)
    with pytest.raises(UsageError, match=says):
        play(small(solver=solver.replace("FILE", file)))
    assert not provider, "a provider of the user's is never asked"


@pytest.mark.parametrize("layout", ["package", "beside"])
def test_an_agent_whose_model_is_in_another_file_gets_the_address_of_each_episode(
    play: Play, provider: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    if layout == "package":
        package = tmp_path / "some_pkg"
        package.mkdir()
        (package / "__init__.py").write_text("from .agent import graph\n")
        (package / "agent.py").write_text(GRAPH.format(model="some_pkg.models"))
        (package / "models.py").write_text(MODEL)
        monkeypatch.chdir(tmp_path)
        solver = "some_pkg:graph"
    else:
        (tmp_path / "some_models.py").write_text(MODEL)
        solver = agent_file(tmp_path, GRAPH.format(model="some_models")) + ":graph"
    _, ledger = play(small(solver=solver, **BRIEF))
    reasons = {row.reason for row in ledger.rows(EpisodeRow)} | {row.reason for row in ledger.rows(EvaluationRow)}
    assert reasons == {"ok", "wrong"} and not provider


class Speller(SimulatedModel):
    """Has words spelled backward by the tool of the example, and takes its word for it."""

    def _say(self, messages: Sequence[Message], sampling: Sampling, sample: int) -> str:
        if not sampling.tools:
            return super()._say(messages, sampling, sample)
        if messages[-1].role == "tool":
            return answering(messages[-1].content)
        word = right_answer(messages[-1].content)[::-1]
        return json.dumps({"calls": [{"tool": "backward", "arguments": {"word": word}}]})


def test_the_example_of_an_agent_is_one(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "SimulatedModel", Speller)
    solver = str(Path(__file__).parents[2] / "examples" / "plug_in_an_agent.py") + ":agent"
    families = {"name": "reasoning_gym", "families": ["spell_backward"]}
    _, ledger = play(small(solver=solver, environment=families, **BRIEF))
    episodes = ledger.rows(EpisodeRow)
    assert {tool["function"]["name"] for e in episodes for tool in e.tools} == {"greatest_common_divisor", "backward"}
    assert episodes and all(e.score == 1.0 for e in episodes)
    assert ledger.count(ToolCallRow, tool="backward", ok=True) >= len(episodes)


def test_an_agent_brings_its_own_tools() -> None:
    with pytest.raises(ValueError, match="brings its own tools"):
        small(solver="a.py:b", tools={"use": ["python"]})
