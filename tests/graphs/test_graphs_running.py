"""`autotelic run` on graphs of a user's own and on ours: events, threads, forks, replays, questions, pictures."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tests.graphs.simulated import SimulatedTrainer
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.errors import MissingPackage, UsageError
from autotelic.graphs.running import open_threads

ROOT = Path(__file__).parents[2]

QUESTIONS = [
    f"Find the Greatest Common Divisor (GCD) of these numbers: {n}, 36. Give only the GCD as your final answer."
    for n in (24, 60)
]
FILE = """
from typing import TypedDict

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    n: int
    log: list[str]


def count(state):
    return {"n": state.get("n", 0) + 1, "log": [*state.get("log", []), "count"]}


def double(state):
    return {"n": state["n"] * 2, "log": [*state["log"], "double"]}


def ask(state):
    return {"n": interrupt(f"what should {state['n']} be?")}


built = StateGraph(State)
built.add_sequence([count, double])
built.add_edge(START, "count")
counter = built.compile()

asking = StateGraph(State)
asking.add_sequence([count, ask, double])
asking.add_edge(START, "count")


def talker():
    async def speak(state):
        model = GenericFakeChatModel(messages=iter([AIMessage("well said indeed")]))
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("speak", speak)
    graph.add_edge(START, "speak")
    return graph


nothing = 3
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    file = tmp_path / "my_graphs.py"
    file.write_text(FILE)

    def invoke(name: str, *args: str, command: tuple[str, ...] = ("run",), catch: bool = False) -> Result:
        spec = f"{file}:{name}" if name[0] == "." or name in FILE else name
        kept = ["--threads", str(tmp_path / "threads.sqlite")] if command[-1] in ("run", "history") else []
        return CliRunner().invoke(app, [*command, spec, *args, *kept], catch_exceptions=catch)

    return invoke


def data(result: Result) -> Any:
    assert result.exit_code in (0, 3), result.stderr
    return json.loads(result.stdout)


def test_a_thread_is_resumed_forked_and_replayed(run: Callable[..., Result]) -> None:
    first = data(run("counter", "--input", "{}", "--thread", "t", "--json"))
    assert (first["n"], first["log"], first["thread"]) == (2, ["count", "double"], "t")
    second = data(run("counter", "--input", "{}", "--thread", "t", "--json"))
    assert (second["n"], len(second["log"])) == (6, 4), "the thread goes on"
    steps = data(run("counter", "t", "--json", command=("graphs", "history")))
    before_double = next(s for s in steps[::-1] if s["next"] == ["double"])
    assert before_double["values"]["n"] == 1
    replayed = data(run("counter", "--thread", "t", "--from", before_double["checkpoint"], "--json"))
    assert replayed["n"] == 2
    forked = data(
        run("counter", "--thread", "t", "--from", before_double["checkpoint"], "--input", '{"n": 10}', "--json")
    )
    assert forked["n"] == 22
    assert len(data(run("counter", "t", "--json", command=("graphs", "history")))) > len(steps), "nothing is lost"
    assert "count" in run("counter", "t", command=("graphs", "history")).stdout


def test_a_graph_that_asks_waits_for_the_answer(run: Callable[..., Result]) -> None:
    asked = run("asking", "--input", "{}", "--thread", "q", "--json")
    assert asked.exit_code == 3 and data(asked) == {"question": ["what should 1 be?"], "thread": "q"}
    assert data(run("asking", "--thread", "q", "--answer", "21", "--json"))["n"] == 42


def test_events_are_lines_with_nodes_and_tokens(run: Callable[..., Result]) -> None:
    said = {"messages": [{"role": "user", "content": "hello"}]}
    result = run("talker", "--input", json.dumps(said), "--events")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert "".join(e["data"] for e in events if e["kind"] == "token") == "well said indeed"
    assert [e["node"] for e in events if e["kind"] == "node"] == ["speak"] and events[-1]["kind"] == "end"
    spoken = run("talker", "--input", json.dumps(said))
    assert "well said indeed\n[speak]\n" in spoken.stderr and "go on with --thread" in spoken.stderr


def test_our_own_graph_streams_and_goes_on(
    run: Callable[..., Result], copied: Path, simulate: Callable[[type[SimulatedTrainer]], None]
) -> None:
    simulate(SimulatedTrainer)
    arguments = ["--run", str(copied), "--thread", "mine"]
    events = run("solve", "--input", json.dumps({"question": QUESTIONS[0]}), *arguments, "--events")
    found = [json.loads(line) for line in events.stdout.splitlines()]
    assert [e["node"] for e in found if e["kind"] == "node"] == ["recall", "draft"]
    (token,) = [e for e in found if e["kind"] == "token"]
    assert token["node"] == "draft" and found[-1]["data"]["answer"] == token["data"]
    again = data(run("solve", "--input", json.dumps({"question": QUESTIONS[1]}), *arguments, "--json"))
    asked = [m["content"] for m in again["messages"] if m["content"] in QUESTIONS]
    assert asked == QUESTIONS, "the second question follows on the first"


def test_graphs_are_listed_and_drawn_without_a_network(run: Callable[..., Result], tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["graphs", "list", "--json"])
    assert "solve" in json.loads(listed.stdout)
    drawn = run("solve", command=("graphs", "draw")).stdout
    assert drawn.index("recall --> draft") and "draft -.-> act" in drawn
    for name in ("solve", "counter"):
        picture = tmp_path / f"{name}.png"
        assert run(name, "--png", str(picture), command=("graphs", "draw")).exit_code == 0
        with Image.open(picture) as image:
            colours = {colour for _, colour in image.convert("RGB").getcolors(100_000) or []}
            assert image.height > image.width > 80 and len(colours) > 4


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("solvent", ["--input", "{}"], "no graph is called 'solvent'. There are: refine, solve"),
        ("nothing", ["--input", "{}"], "a int is no LangGraph graph"),
        ("counter", [], "there is nothing to run"),
        ("counter", ["--thread", "new"], "there is no thread 'new' to go on with"),
        ("counter", ["--input", "{"], "--input is not JSON"),
    ],
)
def test_a_mistake_is_one_clear_line(run: Callable[..., Result], name: str, args: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(name, *args)


async def test_where_threads_cannot_be_kept_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="threads cannot be kept"):
        async with open_threads(tmp_path / "file" / "threads.sqlite"):
            pass
    monkeypatch.setitem(sys.modules, "langgraph.checkpoint.postgres.aio", None)
    with pytest.raises(MissingPackage, match="langgraph-checkpoint-postgres is not installed"):
        async with open_threads("postgresql://nobody@127.0.0.1:9/x"):
            pass


def test_langgraphs_dev_server_finds_our_graphs_and_opens_no_model_to_look_at_one() -> None:
    listed = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
    for name, place in listed.items():
        file, _, function = place.partition(":")
        module = importlib.import_module(".".join(Path(file).with_suffix("").parts[1:]))
        assert (ROOT / file).is_file() and Path(module.__file__ or "") == ROOT / file
        graph = asyncio.run(getattr(module, function)(SimpleNamespace(execution_runtime=None)))
        nodes = {"solve": {"recall", "draft", "act"}, "refine": {"recall", "answer"}}[name]
        assert nodes <= set(graph.get_graph().nodes)
