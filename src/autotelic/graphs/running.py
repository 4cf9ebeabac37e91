"""Run a graph, ours or a user's own: events as they happen, on a thread that can be resumed, forked and replayed.

A thread is a row of checkpoints, one after each step. Going on from the last is resuming; giving new input at an
earlier one is a fork, giving none is a replay. Neither changes what was there.
"""

from __future__ import annotations

import inspect
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command

from autotelic.core.errors import MissingPackage, UsageError
from autotelic.core.plugins import load_source
from autotelic.core.registry import available, lookup
from autotelic.core.words import Frozen
from autotelic.graphs.thread_lease import thread_lease

__all__ = [
    "NO_REPLY",
    "Event",
    "Step",
    "compiled",
    "find_graph",
    "history",
    "is_postgres",
    "open_threads",
    "stream",
    "threads_file",
    "wants_context",
]

NO_REPLY: Any = object()
"""That nothing is answered to what a graph waits for: `None` is an answer, too."""


class Event(Frozen):
    """Something that happened while a graph ran."""

    kind: Literal["token", "node", "question", "end"]
    """A piece of text was generated; a node ended; the graph waits for a person; it ended."""
    node: str = ""
    """Where."""
    data: Any = None
    """The text; what the node returned; the questions; the whole state."""


class Step(Frozen):
    """One checkpoint of a thread."""

    checkpoint: str
    """Id, for `--from`."""
    created_at: str
    """When, ISO 8601."""
    next: tuple[str, ...]
    """Nodes that come next; empty at an end."""
    values: dict[str, Any]
    """State."""


def find_graph(spec: str) -> Any:
    """Return what `spec` names: a compiled graph, a `StateGraph`, or a function of one. See `wants_context`.

    Args:
        spec: a registered name, `file.py:name` or `package.module:name`.

    Raises:
        UsageError: nothing is found, or it cannot be imported.
    """
    if ":" not in spec:
        if spec not in available("graph"):
            raise UsageError(
                f"no graph is called {spec!r}. There are: {', '.join(available('graph'))}; or give file.py:name."
            )
        return lookup("graph", spec)
    source, _, name = spec.rpartition(":")
    found = getattr(load_source(source), name, None)
    if found is None:
        raise UsageError(f"{source} has no {name!r}. Check the part after the colon in {spec!r}.")
    return found


def wants_context(found: Any) -> bool:
    """Whether what `find_graph` found is a function that is given a `GraphContext`: a model, memory, tools."""
    return inspect.isfunction(found) and bool(inspect.signature(found).parameters)


def compiled(found: Any, context: Any = None) -> Any:
    """Return what `find_graph` found as a compiled graph.

    Raises:
        UsageError: it is no graph.
    """
    if inspect.isfunction(found):
        found = found(context) if wants_context(found) else found()
    if isinstance(found, StateGraph):
        found = found.compile()
    if not isinstance(found, Pregel):
        raise UsageError(
            f"a {type(found).__name__} is no LangGraph graph. Name a graph, or a function that returns one."
        )
    return found


def threads_file() -> Path:
    """Return where threads are kept by default: `$XDG_DATA_HOME/autotelic/threads.sqlite`."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "autotelic" / "threads.sqlite"


def is_postgres(place: str | Path) -> bool:
    """Whether threads are kept in PostgreSQL."""
    return str(place).startswith(("postgresql://", "postgres://"))


@asynccontextmanager
async def open_threads(place: str | Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """Open the threads in an SQLite file, or in PostgreSQL by `postgresql://...`.

    Raises:
        MissingPackage: PostgreSQL's checkpointer is not installed.
        UsageError: the file cannot be made, or the database cannot be reached.
    """
    if is_postgres(place):
        try:
            import psycopg
            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        except ModuleNotFoundError:
            raise MissingPackage("langgraph-checkpoint-postgres", "postgres") from None
        async with AsyncExitStack() as stack:
            try:
                saver = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(str(place)))
                await saver.setup()
            except psycopg.OperationalError as error:
                reason = " ".join(str(error).split())
                raise UsageError(
                    f"threads cannot be kept in PostgreSQL: {reason.rstrip('.?')}. Check --threads."
                ) from None
            yield saver
        return
    path = Path(place).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise UsageError(f"threads cannot be kept in {path}: {error}. Name another place with --threads.") from None
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        try:
            await saver.setup()
        except sqlite3.DatabaseError as error:
            raise UsageError(f"threads cannot be kept in {path}: {error}. Name another file with --threads.") from None
        yield saver


async def stream(
    graph: Any,
    payload: Any,
    saver: BaseCheckpointSaver[Any],
    thread: str,
    *,
    start: str | None = None,
    answer: Any = NO_REPLY,
) -> AsyncIterator[Event]:
    """Run a graph on a thread and yield what happens; the last event is `end`, or `question` if it waits for a person.

    Nodes are those of the graph itself, tokens also those of graphs inside it.

    Args:
        graph: a compiled graph.
        payload: its input; `None` goes on with the thread.
        saver: where threads are kept.
        thread: id of the thread.
        start: id of the checkpoint to start from, by default the thread's last.
        answer: to what the graph waits for; it takes the place of `payload`.

    Raises:
        UsageError: there is nothing to go on with, or to answer.
        StoreError: somebody else goes on with the thread.
    """
    running = graph.copy(update={"checkpointer": saver})
    config: Any = {"configurable": {"thread_id": thread, **({"checkpoint_id": start} if start else {})}}
    async with thread_lease(saver, thread):
        before = await running.aget_state(config)
        given = _given(before, payload, thread, start, answer)
        # In step with the checkpoints: what was begun is there after a kill.
        modes = ["updates", "messages", "custom"]
        async for inside, mode, data in running.astream(
            given, config, stream_mode=modes, durability="sync", subgraphs=True
        ):
            for event in _events(mode, data):
                if event.kind == "token" or not inside:
                    yield event
        after = await running.aget_state({"configurable": {"thread_id": thread}})
    if after.interrupts:
        yield Event(kind="question", data=[interrupt.value for interrupt in after.interrupts])
    elif after.next:
        yield Event(kind="question", data=[f"go on with {', '.join(after.next)}? Then run the thread without --input."])
    else:
        yield Event(kind="end", data=after.values)


async def history(saver: BaseCheckpointSaver[Any], graph: Any, thread: str) -> list[Step]:
    """Return the checkpoints of a thread, the newest first.

    Raises:
        UsageError: there is no such thread.
    """
    kept = graph.copy(update={"checkpointer": saver})
    steps = [
        Step(
            checkpoint=state.config["configurable"]["checkpoint_id"],
            created_at=str(state.created_at),
            next=tuple(state.next),
            values=dict(state.values),
        )
        async for state in kept.aget_state_history({"configurable": {"thread_id": thread}})
    ]
    if not steps:
        raise UsageError(
            f"there is no thread {thread!r} here. Name the run that it was begun with, or where it is kept, with --run "
            "or --threads."
        )
    return steps


def _given(before: Any, payload: Any, thread: str, start: str | None, answer: Any) -> Any:
    """Return what the graph is given, `before` being where it starts from."""
    there = before.created_at is not None
    if start and not there:
        raise UsageError(
            f"there is no checkpoint {start!r} of the thread {thread!r}. See: autotelic graphs history GRAPH {thread}, "
            "with the same --run or --threads."
        )
    if not there and (payload is None or answer is not NO_REPLY):
        raise UsageError(f"there is no thread {thread!r} to go on with. Give --input to begin one.")
    if answer is NO_REPLY:
        return payload
    if not before.interrupts:
        raise UsageError(f"the thread {thread!r} waits for no answer. Leave --answer out, or give --input.")
    # LangGraph takes `None` by the question's id only.
    return Command(resume={one.id: None for one in before.interrupts} if answer is None else answer)


def _events(mode: str, data: Any) -> list[Event]:
    if mode == "custom":
        token = data.get("token") if isinstance(data, dict) else None
        return [Event(kind="token", node=str(data.get("node", "")), data=token)] if token else []
    if mode == "messages":
        chunk, about = data
        text = str(chunk.text) if isinstance(chunk, AIMessage) else ""  # a result of a tool's is no token
        return [Event(kind="token", node=str(about.get("langgraph_node", "")), data=text)] if text else []
    return [Event(kind="node", node=node, data=update) for node, update in data.items() if node != "__interrupt__"]
