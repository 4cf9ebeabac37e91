"""`autotelic run` on graphs of a user's own and on ours: events, threads, forks, replays, questions, pictures."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image
from tests.graphs.simulated import SimulatedModel, SimulatedTrainer
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.dialect import calling
from autotelic.core.errors import MissingPackage, StoreError, UsageError
from autotelic.core.words import Completion, Message, ToolCall
from autotelic.graphs import GraphContext, build_ask
from autotelic.graphs.running import open_threads, stream
from autotelic.graphs.thread_lease import thread_lease
from autotelic.serving import Gateway, Sampling, ScriptedBackend, TooLong
from autotelic.tools import Toolbox, tool

ROOT = Path(__file__).parents[2]

QUESTIONS = [
    f"Find the Greatest Common Divisor (GCD) of these numbers: {n}, 36. Give only the GCD as your final answer."
    for n in (24, 60)
]
FILE = """
from typing import TypedDict

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
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


class Blocks(GenericFakeChatModel):
    def _stream(self, *_, **__):
        for text in ("well ", "said"):
            yield ChatGenerationChunk(message=AIMessageChunk(content=[{"type": "text", "text": text}]))


async def call(state):
    return {"messages": [ToolMessage("of a tool", tool_call_id="1")]}


async def say(state):
    return {"messages": [await Blocks(messages=iter([])).ainvoke(state["messages"])]}


inner = StateGraph(MessagesState)
inner.add_sequence([call, say])
inner.add_edge(START, "call")
outer = StateGraph(MessagesState)
outer.add_node("agent", inner.compile())
outer.add_edge(START, "agent")
nested = outer.compile()

halting = built.compile(interrupt_before=["double"])


async def slowly(state):
    import asyncio
    import pathlib

    pathlib.Path(__file__).with_name("begun").touch()
    while not pathlib.Path(__file__).with_name("go").exists():
        await asyncio.sleep(0.01)
    return {"n": state.get("n", 0) + 1}


slow = StateGraph(State)
slow.add_node("slowly", slowly)
slow.add_edge(START, "slowly")


def unanswered(state):
    return {"answer": None, "reason": "too_long"}


class Answered(TypedDict, total=False):
    answer: str | None
    reason: str


mute = StateGraph(Answered)
mute.add_node("unanswered", unanswered)
mute.add_edge(START, "unanswered")

nothing = 3
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    file = tmp_path / "my_graphs.py"
    file.write_text(FILE)

    def invoke(name: str, *args: str, command: tuple[str, ...] = ("run",), catch: bool = False) -> Result:
        spec = f"{file}:{name}" if name in FILE else name
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
    with pytest.raises(UsageError, match="the thread 'q' waits for no answer"):
        run("asking", "--thread", "q", "--answer", "22")
    with pytest.raises(UsageError, match="there is no thread 'new' to go on with"):
        run("asking", "--thread", "new", "--answer", "22")


def test_null_is_an_answer(run: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "asks.py"
    file.write_text(FILE + "asked = StateGraph(State)\nasked.add_node('ask', ask)\nasked.add_edge(START, 'ask')\n")
    assert run(f"{file}:asked", "--input", '{"n": 1}', "--thread", "q").exit_code == 3
    assert data(run(f"{file}:asked", "--thread", "q", "--answer", "null", "--json")) == {"n": None, "thread": "q"}


def test_a_graph_that_halts_before_a_node_has_not_ended(run: Callable[..., Result]) -> None:
    halted = run("halting", "--input", "{}", "--thread", "h", "--json")
    assert halted.exit_code == 3
    assert data(halted)["question"] == ["go on with double? Then run the thread without --input."]
    with pytest.raises(UsageError, match="the thread 'h' waits for no answer"):
        run("halting", "--thread", "h", "--answer", "true")
    ended = run("halting", "--thread", "h", "--json")
    assert ended.exit_code == 0 and data(ended)["n"] == 2


def test_no_answer_is_said_and_is_no_success(run: Callable[..., Result]) -> None:
    result = run("mute", "--input", "{}")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("autotelic: there is no answer: what was said does not fit")
    shown = run("mute", "--input", "{}", "--json")
    assert shown.exit_code == 1 and json.loads(shown.stdout)["answer"] is None


@pytest.mark.e2e
def test_one_process_at_a_time_goes_on_with_a_thread(run: Callable[..., Result], tmp_path: Path) -> None:
    threads = tmp_path / "threads.sqlite"
    spec = f"{tmp_path / 'my_graphs.py'}:slow"
    command = [sys.executable, "-m", "autotelic", "run", spec, "--input", "{}", "--threads", str(threads), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    first = subprocess.Popen([*command, "--thread", "one"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "begun").exists():
            assert first.poll() is None
            time.sleep(0.01)
        waits = [*command, "--thread", "one"]
        second = subprocess.run(waits, env=environment, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1 and not second.stdout
        assert second.stderr.startswith("autotelic: somebody else goes on with the thread 'one' just now.")
        assert data(run("counter", "--input", "{}", "--thread", "another", "--json"))["n"] == 2
    finally:
        (tmp_path / "go").touch()
        said = first.communicate()[0]
    assert (first.returncode, json.loads(said)) == (0, {"n": 1, "thread": "one"})
    assert data(run("slow", "--input", "{}", "--thread", "one", "--json"))["n"] == 2, "then it is free"


async def one_at_a_time(place: Path | str) -> None:
    """Assert that a thread that is kept there has one writer."""
    async with open_threads(place) as saver, open_threads(place) as other:
        async with thread_lease(saver, "one"), thread_lease(saver, "two"):
            for again in (saver, other):
                with pytest.raises(StoreError, match="the thread 'one' just now"):
                    async with thread_lease(again, "one"):
                        pass
        async with thread_lease(other, "one"):
            pass


async def test_one_task_at_a_time_goes_on_with_a_thread(tmp_path: Path) -> None:
    await one_at_a_time(tmp_path / "threads.sqlite")


def test_events_are_lines_with_nodes_and_tokens(run: Callable[..., Result]) -> None:
    said = {"messages": [{"role": "user", "content": "hello"}]}
    result = run("talker", "--input", json.dumps(said), "--events")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert "".join(e["data"] for e in events if e["kind"] == "token") == "well said indeed"
    assert [e["node"] for e in events if e["kind"] == "node"] == ["speak"] and events[-1]["kind"] == "end"
    nested = run("nested", "--input", json.dumps(said), "--events")
    events = [json.loads(line) for line in nested.stdout.splitlines()]
    assert [(e["node"], e["data"]) for e in events if e["kind"] == "token"] == [("say", "well "), ("say", "said")]
    assert [e["node"] for e in events if e["kind"] == "node"] == ["agent"], "its own nodes, not those inside it"
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


def test_the_threads_of_a_run_are_found_by_it(
    copied: Path, simulate: Callable[[type[SimulatedTrainer]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(SimulatedTrainer)
    asked = ["--input", json.dumps({"question": QUESTIONS[0]}), "--thread", "mine", "--run", str(copied)]
    assert CliRunner().invoke(app, ["run", "solve", *asked]).exit_code == 0
    history = ["graphs", "history", "solve", "mine", "--run", str(copied)]
    steps = json.loads(CliRunner().invoke(app, [*history, "--json"]).stdout)
    assert steps[0]["values"]["question"] == QUESTIONS[0]
    monkeypatch.setattr("autotelic.cli.shown.out.width", 80)
    assert all(step["checkpoint"] in CliRunner().invoke(app, history).stdout for step in steps)


def test_the_price_of_a_refined_answer_is_told(
    run: Callable[..., Result], copied: Path, simulate: Callable[[type[SimulatedTrainer]], None]
) -> None:
    simulate(SimulatedTrainer)
    asked = [
        "--input",
        json.dumps({"question": QUESTIONS[0]}),
        "--run",
        str(copied),
        "--strategy",
        "reflexion(tries=3)",
    ]
    assert "1 call, " in run("refine", *asked, "--calls", "1").stderr
    for bound in (["--tokens", "1"], ["--seconds", "0.001"]):
        assert "cut short: " in run("refine", *asked, *bound, catch=True).stderr


class Room(ScriptedBackend):
    """A model with room for so many characters, that first calls what it can call and then answers."""

    def __init__(self, room: int) -> None:
        super().__init__(self._say)
        self.room = room
        self.fitted: list[list[Message]] = []

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        if sum(len(message.content) for message in messages) > self.room:
            raise TooLong("no room")
        self.fitted.append(list(messages))
        return await super().complete(messages, sampling, policy)

    def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
        if sampling.tools and messages[-1].role == "user":
            return [calling([ToolCall(name="read", arguments=f'{{"page":{len(self.fitted)}}}')])]
        return ['{"answer":"four"}' if sampling.tools else "four"]


@tool
def read(page: int) -> str:
    """Read a page."""
    return f"{page}" * 8000


async def ended(graph: Any, question: str, saver: Any) -> dict[str, Any]:
    *_, last = [event async for event in stream(graph, {"question": question}, saver, "t")]
    assert last.kind == "end" and isinstance(last.data, dict)
    return last.data


async def test_what_does_not_fit_the_model_is_shortened_the_oldest_results_first() -> None:
    model, saver = Room(3000), InMemorySaver()
    graph = build_ask(GraphContext(Gateway(model), toolbox=Toolbox([read])))
    first = await ended(graph, "first?", saver)
    assert (first["answer"], first["reason"]) == ("four", "ok")
    (length,) = [len(m["content"]) for m in first["messages"] if m["role"] == "tool"]
    assert 2000 < length < 2100, "halved twice"
    second = await ended(graph, "second?", saver)
    older, newer = [len(m["content"]) for m in second["messages"] if m["role"] == "tool"]
    assert second["answer"] == "four" and older < 600 < newer < 3000


@pytest.mark.parametrize("tools", [[], [read]])
async def test_what_was_said_first_is_left_out_and_a_thread_outlives_what_fits_nowhere(tools: list[Any]) -> None:
    model, saver = Room(2000), InMemorySaver()
    graph = build_ask(GraphContext(Gateway(model), toolbox=Toolbox(tools)))
    for word in ("one", "two"):
        found = await ended(graph, word * 400, saver)
        assert found["answer"] == "four"
    assert model.fitted[-1][0].role == "system"
    assert [m.content[:3] for m in model.fitted[-1] if m.role == "user"] == ["two"], "the first was left out"
    lost = await ended(graph, "x" * 3000, saver)
    assert (lost["answer"], lost["reason"]) == (None, "too_long")
    assert (await ended(graph, "And now?", saver))["answer"] == "four"


def test_a_run_that_picks_tools_offers_a_few_of_many(
    run: Callable[..., Result], copied: Path, simulate: Callable[[type[SimulatedTrainer]], None], tmp_path: Path
) -> None:
    simulate(SimulatedTrainer)
    config = yaml.safe_load((copied / "config.yaml").read_text())
    (copied / "config.yaml").write_text(yaml.safe_dump({**config, "tools": {**config["tools"], "pick": 2}}))
    tools = tmp_path / "house.py"
    tools.write_text(
        "from autotelic.tools import tool\n\n"
        '@tool(name="oracle")\ndef oracle(question: str) -> str:\n    "Numbers: the divisor of numbers."\n'
        '    return "7"\n\n'
        '@tool(name="send")\ndef send(question: str) -> str:\n    "Numbers: send these numbers."\n'
        '    return "send it"\n\n'
        '@tool(name="weather")\ndef weather(town: str) -> str:\n    "Rain or shine."\n    return "rain"\n'
    )
    offered: list[set[str]] = []
    say = SimulatedModel._say

    def listen(self: SimulatedModel, messages: Any, sampling: Any, sample: int) -> str:
        offered.append({one["function"]["name"] for one in sampling.tools})
        return say(self, messages, sampling, sample)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedModel, "_say", listen)
        asked = json.dumps({"question": QUESTIONS[0]})
        found = data(run("solve", "--input", asked, "--run", str(copied), "--tool", str(tools), "--json"))
    assert found["calls"] and offered and all(names == {"oracle", "send"} for names in offered)


def test_code_beside_a_graph_or_in_the_current_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near_nodes.py").write_text(FILE)
    (tmp_path / "near_pkg").mkdir()
    (tmp_path / "near_pkg" / "mod.py").write_text("from near_nodes import counter\n")
    (tmp_path / "near_graph.py").write_text("from near_nodes import counter\n")
    for spec in ("near_pkg.mod:counter", f"{tmp_path}/near_graph.py:counter", "near_graph.py:counter"):
        drawn = CliRunner().invoke(app, ["graphs", "draw", spec], catch_exceptions=False)
        assert "count --> double" in drawn.stdout
    for name in ("near_nodes", "near_pkg.mod", "near_pkg"):
        del sys.modules[name]


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
        ("counter", ["--input", "{}", "--thread", "t", "--from", "1f0"], "there is no checkpoint '1f0' of the thread"),
        ("counter", ["--thread", "t", "--from", "1f0"], "there is no checkpoint '1f0' of the thread 't'"),
        ("asking", ["--thread", "t", "--input", "{}", "--answer", "3"], "Give one of them"),
        ("counter", ["--input", "{}", "--tool", "python", "--calls", "3"], "--calls, --tool would do nothing"),
    ],
)
def test_a_mistake_is_one_clear_line(run: Callable[..., Result], name: str, args: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(name, *args)


@pytest.mark.parametrize("name", ["no/folder/x.png", "picture", "x.nonsense"])
def test_a_picture_that_cannot_be_written_is_one_clear_line(
    run: Callable[..., Result], tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match=f"the picture cannot be written to .*{name}: .* Give the path of a .png file"):
        run("counter", "--png", str(tmp_path / name), command=("graphs", "draw"))


async def test_an_answer_that_was_cut_off_is_none() -> None:
    class Cut(ScriptedBackend):
        async def complete(self, *given: Any) -> list[Completion]:
            return [c.model_copy(update={"finish_reason": "length"}) for c in await super().complete(*given)]

    graph = build_ask(GraphContext(Gateway(Cut(lambda _m, _s: ["The capital of France, a country in"]))))
    state = await graph.ainvoke({"question": "What is the capital of France?"})
    assert (state["answer"], state["reason"]) == (None, "truncated")
    assert state["messages"][-1]["content"] == "The capital of France, a country in", "what was said is not lost"


async def test_where_threads_cannot_be_kept_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("this is a shopping list, and no database at all. " * 9)
    for place in (tmp_path / "file" / "threads.sqlite", tmp_path / "file"):
        with pytest.raises(UsageError, match="threads cannot be kept"):
            async with open_threads(place):
                pass
    assert (tmp_path / "file").read_text().startswith("this is a shopping list")
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
