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
from rich.table import Table

from autotelic.cli.shown import JsonOption, OtherOption, out, plain, show
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
    model: Annotated[str, typer.Option(help="Without --run: name, directory or hub id that vLLM serves.")] = "",
    remote: Annotated[str | None, typer.Option(help="A model called through LiteLLM, e.g. openai/NAME.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server for --remote.")] = None,
    tool: ToolOption = None,
    allow: AllowOption = None,
    strategy: Annotated[
        str, typer.Option(help="How the graph refine answers, e.g. reflexion(tries=2); see: strategies list.")
    ] = "self_consistency",
    other: OtherOption = None,
    calls: Annotated[int | None, typer.Option(min=1, help="Most calls of the model for an answer of refine.")] = None,
    thread: Annotated[str | None, typer.Option(help="Thread to begin or to go on with; else a new one.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Checkpoint of the thread to start from.")] = None,
    answer: Annotated[str | None, typer.Option(help="JSON: the answer to what the graph waits for.")] = None,
    threads: ThreadsOption = None,
    events: Annotated[bool, typer.Option("--events", help="Print every event as a line of JSON.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run an agent graph on a thread; exit code 3 if it waits for an answer."""
    from autotelic.core.run_dir import RunDir
    from autotelic.graphs.config import run_config
    from autotelic.graphs.running import NO_REPLY
    from autotelic.graphs.source import Source
    from autotelic.refinement import Budget, build_strategy
    from autotelic.serving import DEFAULT_MODEL

    payload = _json(given, "--input")
    reply = NO_REPLY if answer is None else _json(answer, "--answer")
    if payload is not None and not isinstance(payload, dict):
        raise UsageError(f'--input is {given}, expected an object such as {{"question": "2 + 2?"}}.')
    if thread is None and payload is None:
        raise UsageError("there is nothing to run. Give --input, or --thread of a thread that is to go on.")
    if answer is not None and given is not None:
        raise UsageError("--answer goes on with what waits for it and --input begins anew. Give one of them.")
    if run is not None:
        run_config(RunDir(run).require())  # a strategy may be one of its plug-ins'
    build_strategy(strategy)  # a mistake is found before anything is started
    how = {"strategy": strategy, "budget": Budget(calls=calls)}
    source = Source(run=run, model=model or DEFAULT_MODEL, remote=remote, base_url=base_url, others=tuple(other or ()))
    name = thread or uuid.uuid4().hex[:8]
    shown = _Shown(quiet=as_json, lines=events)
    tools, where = tools_config(tool, allow), {"thread": name, "start": start, "answer": reply}
    last = asyncio.run(_run(graph, payload, source, tools, how, shown, threads, **where))
    _end(last, name, as_json=as_json, events=events)


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
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the checkpoints of a thread, the newest first; run --from goes on from one."""
    from autotelic.graphs.running import compiled, find_graph, history, open_threads, threads_file

    async def look() -> Any:
        async with open_threads(threads or threads_file()) as saver:
            return await history(saver, compiled(find_graph(graph), nobody()), thread)

    steps = asyncio.run(look())
    table = Table("checkpoint", "when", "next", "state")
    for step in steps:
        table.add_row(
            *plain(step.checkpoint, step.created_at[:19], ", ".join(step.next) or "end", ", ".join(step.values))
        )
    show([step.model_dump() for step in steps], as_json, table)


class _Shown:
    """Events as a person or a program wants to see them: tokens and nodes on standard error, or lines of JSON."""

    def __init__(self, *, quiet: bool, lines: bool) -> None:
        self._quiet, self._lines = quiet, lines
        self._speaking = False

    def take(self, event: Event) -> None:
        if self._lines:
            sys.stdout.write(json.dumps(event.model_dump(), default=str, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        elif not self._quiet:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        if event.kind == "token":
            sys.stderr.write(str(event.data))
            self._speaking = True
        elif event.kind == "node":
            sys.stderr.write("\n" * self._speaking + f"[{event.node}]\n")
            self._speaking = False
        sys.stderr.flush()


def _end(last: Event, name: str, *, as_json: bool, events: bool) -> None:
    """Show what the last event says, and end with the exit code that goes with it."""
    if as_json:
        state = last.data if last.kind == "end" and isinstance(last.data, dict) else {"question": last.data}
        show({**state, "thread": name}, True, "")
    elif not events:
        found = last.data.get("answer", last.data) if isinstance(last.data, dict) else last.data
        if found is not None:
            out.print(str(found), soft_wrap=True, markup=False)
        sys.stderr.write(f"thread {name}: go on with --thread {name}\n")
    if last.kind == "question":
        raise typer.Exit(3)
    if isinstance(last.data, dict) and last.data.get("answer", "") is None:
        why = last.data.get("reason") or last.data.get("stopped") or "the graph does not say why"
        sys.stderr.write(f"autotelic: there is no answer: {_WHY.get(str(why), why)}\n")
        raise typer.Exit(1)


async def _run(
    spec: str,
    payload: Any,
    source: Source,
    tools: ToolsConfig,
    how: dict[str, Any],
    shown: _Shown,
    threads: str | None,
    **where: Any,
) -> Event:
    from autotelic.cli.bars import Bars
    from autotelic.graphs.running import compiled, find_graph, open_threads, stream, threads_file, wants_context
    from autotelic.graphs.source import graph_context

    found = find_graph(spec)
    async with AsyncExitStack() as stack:
        context = None
        if wants_context(found):
            with Bars() as bars:
                made = await stack.enter_async_context(graph_context(source, tools=tools, progress=bars))
                context = replace(made, **how)
        place = threads or (source.run / "threads.sqlite" if source.run else threads_file())
        saver = await stack.enter_async_context(open_threads(place))
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
