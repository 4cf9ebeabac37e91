"""`autotelic run` and `autotelic graphs`: run an agent graph on a thread, look at graphs and at threads."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from autotelic.cli.shown import JsonOption, OtherOption, listing, out, plain, show
from autotelic.cli.tools import AllowOption, ToolOption, tools_config
from autotelic.core.errors import UsageError

if TYPE_CHECKING:
    from autotelic.graphs.running import Event
    from autotelic.graphs.source import Source
    from autotelic.tools import ToolsConfig

__all__ = ["graphs", "run_graph"]

graphs = typer.Typer(help="Agent graphs: list, draw, and the history of a thread.", no_args_is_help=True)

GraphArgument = Annotated[str, typer.Argument(help="Registered name, file.py:graph or package.module:graph.")]
_WHY = {
    "too_long": "what was said does not fit the model. Ask for less, or in a new thread.",
    "truncated": "it was cut off at the token limit.",
    "no_answer": "the model came to none.",
}
ThreadsOption = Annotated[
    str | None,
    typer.Option("--threads", help="Where threads are kept: an SQLite file, or postgresql://..."),
]


def run_graph(
    graph: GraphArgument,
    given: Annotated[
        str | None,
        typer.Option("--input", help='JSON, e.g. {"question": "2 + 2?"}; without it a thread goes on.'),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A run whose champion answers, with its memory.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Without --run: name, directory or hub id that vLLM serves.")
    ] = None,
    remote: Annotated[str | None, typer.Option(help="A model called through LiteLLM, e.g. openai/NAME.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server for --remote.")] = None,
    tool: ToolOption = None,
    allow: AllowOption = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="How the graph refine answers: self_consistency, or e.g. reflexion(tries=2); see: strategies list."
        ),
    ] = None,
    other: OtherOption = None,
    calls: Annotated[int | None, typer.Option(min=1, help="Most calls of the model for an answer of refine.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens for it, prompts included.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Most seconds for it.")] = None,
    thread: Annotated[str | None, typer.Option(help="Thread to begin or to go on with; else a new one.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Checkpoint of the thread to start from.")] = None,
    answer: Annotated[str | None, typer.Option(help="JSON: the answer to what the graph waits for.")] = None,
    threads: ThreadsOption = None,
    events: Annotated[bool, typer.Option("--events", help="Print every event as a line of JSON.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run an agent graph on a thread; exit code 3 if it waits for an answer."""
    from autotelic.core.run_dir import RunDir
    from autotelic.graphs import build_refine
    from autotelic.graphs.config import run_config
    from autotelic.graphs.running import NO_REPLY, find_graph
    from autotelic.graphs.source import Source
    from autotelic.refinement import Budget, build_strategy

    payload = _json(given, "--input")
    reply = NO_REPLY if answer is None else _json(answer, "--answer")
    if payload is not None and not isinstance(payload, dict):
        raise UsageError(f'--input is {given}, expected an object such as {{"question": "2 + 2?"}}.')
    if thread is None and payload is None:
        raise UsageError("there is nothing to run. Give --input, or --thread of a thread that is to go on.")
    if answer is not None and given is not None:
        raise UsageError("--answer goes on with what waits for it and --input begins anew. Give one of them.")
    source = Source(run=run, model=model, remote=remote, base_url=base_url, others=tuple(other or ()))
    if run is not None:
        run_config(RunDir(run).require())  # a graph or a strategy may be one of its plug-ins'
    found = find_graph(graph)
    given_by_name = {
        "--strategy": strategy,
        "--other": other,
        "--calls": calls,
        "--tokens": tokens,
        "--seconds": seconds,
    }
    _refuse_unused(
        graph, found, given_by_name, {"--tool": tool, "--allow": allow, "--model": model, "--remote": remote}
    )
    strategy = strategy or "self_consistency"
    build_strategy(strategy)  # a mistake is found before anything is started
    how = {"strategy": strategy, "budget": Budget(calls=calls, tokens=tokens, seconds=seconds)}
    name = thread or uuid.uuid4().hex[:8]
    shown = _Shown(quiet=as_json, lines=events)
    tools, where = tools_config(tool, allow), {"thread": name, "start": start, "answer": reply}
    last = asyncio.run(_run(found, payload, source, tools, how, shown, threads, **where))
    _end(last, name, shown, priced=found is build_refine, as_json=as_json, events=events)


@graphs.command("list")
def list_graphs(as_json: JsonOption = False) -> None:
    """List the registered graphs."""
    from autotelic.core.registry import available

    names = available("graph")
    show(names, as_json, "\n".join(names))


@graphs.command("draw")
def draw_graph(
    graph: GraphArgument,
    png: Annotated[Path | None, typer.Option(help="Write a picture to this file.")] = None,
) -> None:
    """Draw a graph: Mermaid on standard output, or a picture in a file. Needs no network."""
    from autotelic.graphs.drawing import draw_png
    from autotelic.graphs.running import compiled, find_graph

    drawable = compiled(find_graph(graph), nobody()).get_graph()
    if png is None:
        sys.stdout.write(drawable.draw_mermaid())
    else:
        draw_png(drawable, png)
        out.print(f"{png}", soft_wrap=True)


@graphs.command("history")
def show_history(
    graph: GraphArgument,
    thread: Annotated[str, typer.Argument(help="Thread.")],
    run: Annotated[Path | None, typer.Option(help="The run that the thread was begun with.")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the checkpoints of a thread, the newest first; run --from goes on from one."""
    from autotelic.graphs.running import compiled, find_graph, history, is_postgres, open_threads

    place = _place(run, threads)
    if not is_postgres(place) and not Path(place).expanduser().is_file():
        raise UsageError(
            f"there are no threads in {place}. Name the run that the thread was begun with, or where it is kept, with "
            "--run or --threads."
        )

    async def look() -> Any:
        async with open_threads(place) as saver:
            return await history(saver, compiled(find_graph(graph), nobody()), thread)

    steps = asyncio.run(look())
    table = listing("checkpoint", "when", "next", "state")
    for step in steps:
        table.add_row(
            *plain(
                step.checkpoint,
                step.created_at[:19].replace("T", " "),
                ", ".join(step.next) or "end",
                ", ".join(step.values),
            )
        )
    show([step.model_dump() for step in steps], as_json, table)


class _Shown:
    """Events as a person or a program wants to see them: tokens and nodes on standard error, or lines of JSON."""

    def __init__(self, *, quiet: bool, lines: bool) -> None:
        self._quiet, self._lines = quiet, lines
        self._speaking = False
        self._said = ""

    def take(self, event: Event) -> None:
        if self._lines:
            sys.stdout.write(json.dumps(event.model_dump(), default=str, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        elif not self._quiet:
            self._tell(event)

    def told(self, answer: str) -> bool:
        """Whether who reads both standard output and standard error has just read this answer."""
        from autotelic.environments import plain_answer

        return sys.stdout.isatty() and sys.stderr.isatty() and answer in (self._said, plain_answer(self._said))

    def _tell(self, event: Event) -> None:
        if event.kind == "token":
            sys.stderr.write(str(event.data))
            self._said = f"{self._said if self._speaking else ''}{event.data}"
            self._speaking = True
        elif event.kind == "node":
            sys.stderr.write("\n" * self._speaking + f"[{event.node}]\n")
            self._speaking = False
        sys.stderr.flush()


def _end(last: Event, name: str, shown: _Shown, *, priced: bool, as_json: bool, events: bool) -> None:
    """Show what the last event says, and end with the exit code that goes with it."""
    if as_json:
        state = last.data if last.kind == "end" and isinstance(last.data, dict) else {"question": last.data}
        show({**state, "thread": name}, True, "")
    elif not events:
        found = last.data.get("answer", last.data) if isinstance(last.data, dict) else last.data
        if found is not None and not shown.told(str(found)):
            out.print(str(found), soft_wrap=True, markup=False)
        if priced and last.kind == "end":
            _tell_price(last.data)
        sys.stderr.write(f"thread {name}: go on with --thread {name}\n")
    if last.kind == "question":
        raise typer.Exit(3)
    if isinstance(last.data, dict) and last.data.get("answer", "") is None:
        why = last.data.get("reason") or last.data.get("stopped") or "the graph does not say why"
        sys.stderr.write(f"autotelic: there is no answer: {_WHY.get(str(why), why)}\n")
        raise typer.Exit(1)


def _tell_price(state: dict[str, Any]) -> None:
    """Say on standard error what an answer cost, and what cut it short."""
    from autotelic.refinement import Price

    cut = f", cut short: {state['stopped']}" if state.get("stopped") else ""
    Console(stderr=True).print(
        f"{Price.model_validate(state['price'])}{cut}", style="dim", markup=False, highlight=False
    )


def _refuse_unused(graph: str, found: Any, strategic: dict[str, Any], sourced: dict[str, Any]) -> None:
    """Refuse options that would do nothing.

    Raises:
        UsageError: the graph answers by no strategy, or takes nothing from the command line.
    """
    from autotelic.graphs import build_ask
    from autotelic.graphs.running import wants_context

    if found is build_ask and (unused := [name for name, given in strategic.items() if given]):
        raise UsageError(f"{', '.join(unused)} would do nothing: {graph} answers by no strategy. Run the graph refine.")
    given = [name for name, given in (strategic | sourced).items() if given]
    if given and not wants_context(found):
        raise UsageError(
            f"{', '.join(given)} would do nothing: {graph} is no function of a GraphContext. Leave it out."
        )


def _place(run: Path | None, threads: str | None) -> str | Path:
    """Return where threads are kept."""
    from autotelic.graphs.running import threads_file

    return threads or (run / "threads.sqlite" if run else threads_file())


async def _run(
    found: Any,
    payload: Any,
    source: Source,
    tools: ToolsConfig,
    how: dict[str, Any],
    shown: _Shown,
    threads: str | None,
    **where: Any,
) -> Event:
    from autotelic.cli.bars import Bars
    from autotelic.graphs.running import compiled, open_threads, stream, wants_context
    from autotelic.graphs.source import graph_context

    async with AsyncExitStack() as stack:
        context = None
        if wants_context(found):
            with Bars() as bars:
                made = await stack.enter_async_context(graph_context(source, tools=tools, progress=bars))
                context = replace(made, **how)
        saver = await stack.enter_async_context(open_threads(_place(source.run, threads)))
        async for event in stream(compiled(found, context), payload, saver, **where):
            shown.take(event)
    return event


def _json(text: str | None, option: str) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f'{option} is not JSON: {error}. Example: {option} \'{{"question": "2 + 2?"}}\'') from None


def nobody() -> Any:
    """A context for graphs that are looked at and not run."""
    from autotelic.graphs import GraphContext
    from autotelic.serving import Gateway, ScriptedBackend

    return GraphContext(Gateway(ScriptedBackend(lambda _messages, sampling: [""] * sampling.n)))
