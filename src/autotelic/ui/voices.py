"""Who can be asked, opened: policies that take turns in one server, or a remote model; with memory and tools.

Who is champion is looked up in the ledger every second; a new one is delivered between two answers, and nobody who
asks is refused for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from langgraph.types import interrupt

from autotelic.core.config import load_config
from autotelic.core.errors import StoreError, UsageError
from autotelic.core.progress import Progress
from autotelic.core.run_dir import RunDir
from autotelic.core.words import PolicyState
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.chatting import ChatContext
from autotelic.graphs.config import Config
from autotelic.graphs.oversight import decided
from autotelic.graphs.session import open_memory
from autotelic.graphs.source import Served, Source, open_source
from autotelic.store import Ledger, PolicyRow
from autotelic.tools import ToolsConfig, open_toolbox
from autotelic.training import read_policy
from autotelic.ui.switchboard import Switchboard

__all__ = ["Voices", "open_voices"]

_WATCH_SECONDS = 1.0


def _nobody() -> tuple[int, Sequence[int]]:
    return 0, ()


@dataclass(frozen=True)
class Voices:
    """Who can be asked."""

    context: GraphContext
    """The model, memory and tools."""
    board: Switchboard | None = None
    """Makes policies take turns; `None` for a remote model."""
    policies: Callable[[], tuple[int, Sequence[int]]] = _nobody
    """Returns the champion's number and all that can be asked for."""
    ledger: Ledger | None = None
    """The run's, if there is one."""
    asks: frozenset[str] = frozenset()
    """Tools each call of which a person has to allow."""
    run: RunDir | None = None
    """The run, if there is one."""

    def chat(self, *, rounds: int = 2, max_tokens: int = 256) -> ChatContext:
        """Return what the chat with them is built from. With a run, what a person decides goes into its log.

        Args:
            rounds: most revisions that the critic may bring about.
            max_tokens: bound on one turn of the model, tokens.
        """
        answers = replace(self.context, max_tokens=max_tokens)
        chat, ledger = ChatContext(answers, self.speaking, rounds=rounds, asks=self.asks), self.ledger
        if ledger is None:
            return chat
        return replace(chat, decide=lambda subject, asked: decided(ledger, "tool", subject, asked, interrupt))

    @asynccontextmanager
    async def speaking(self, policy: int | None) -> AsyncIterator[int | None]:
        """Hold a policy in the server while it answers; gives its number, `None` for a remote model.

        Args:
            policy: its number, `None` for the champion.

        Raises:
            UsageError: there is no such policy.
            ServingError: it could not be delivered.
        """
        if self.board is None:
            if policy is not None:
                raise UsageError(f"there is no policy-{policy}: a remote model has no policies.")
            yield None
            return
        champion, known = self.policies()
        number = champion if policy is None else policy
        if number not in known:
            have = ", ".join(f"policy-{one}" for one in known)
            raise UsageError(f"there is no policy-{number} here. There are: {have}.")
        async with self.board.held(number):
            yield number


@asynccontextmanager
async def open_voices(
    source: Source,
    tools: ToolsConfig,
    progress: Progress,
    *,
    champion: Callable[[int], None] = lambda _: None,
    log: str = "vllm.log",
    person: bool = False,
    memory: bool = False,
) -> AsyncIterator[Voices]:
    """Open who can be asked. A run's lease is not taken: a session may go on meanwhile.

    Args:
        source: the model.
        tools: which there are, and what is allowed.
        progress: shows how far it is.
        champion: called with the champion's number, and again whenever it is another.
        log: name of the server's log in a run.
        person: whether there is one who can allow calls of tools that are not on the allow list, one by one.
        memory: whether the run's memory is opened, if nobody else has it open.
    """
    async with AsyncExitStack() as stack:
        toolbox = await stack.enter_async_context(open_toolbox(tools, workers=1))
        asks = frozenset(tool.name for tool in toolbox.refused) if person else frozenset()
        served = await stack.enter_async_context(open_source(source, progress, log=log))
        context = GraphContext(served.gateway, toolbox=toolbox.opened() if person else toolbox)
        if memory and served.run is not None:
            context = await _remembering(stack, served.run, context, progress)
        if served.server is None:
            yield Voices(context, asks=asks)
            return
        board = Switchboard(_deliverer(served), lambda: served.gateway.policy)
        stack.push_async_callback(board.aclose)
        champion(_policies(served)[0])
        if served.ledger is not None:
            watching = asyncio.create_task(_watch(served, board, champion, progress))
            stack.push_async_callback(_end, watching)
        yield Voices(context, board, lambda: _policies(served), served.ledger, asks, served.run)


async def _remembering(stack: AsyncExitStack, run: RunDir, context: GraphContext, progress: Progress) -> GraphContext:
    config = load_config(Config, run.config)
    try:
        memory = await open_memory(stack, config, run)
    except StoreError as error:
        progress.say(f"without memory: {error}")
        return context
    seen = config.memory
    return replace(
        context,
        memory=memory,
        demonstrations=seen.demonstrations,
        lessons=seen.lessons,
        scopes=tuple(seen.scopes),
    )


def _policies(served: Served) -> tuple[int, Sequence[int]]:
    if served.ledger is None:
        return 0, (0,)
    usable = [row for row in served.ledger.rows(PolicyRow, order="number") if row.state != PolicyState.DISCARDED.value]
    return served.ledger.champion().number, [row.number for row in usable]


def _deliverer(served: Served) -> Callable[[int], Any]:
    async def deliver(number: int) -> None:
        assert served.server is not None and served.run is not None, "a model of our own without a run has one policy"
        files = await asyncio.to_thread(read_policy, served.run.policy(number))
        await served.server.deliver(files)

    return deliver


async def _watch(served: Served, board: Switchboard, champion: Callable[[int], None], progress: Progress) -> None:
    """Have a new champion delivered as soon as there is one, so that nobody waits for it."""
    known = served.gateway.policy
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        number = _policies(served)[0]
        if number == known:
            continue
        known = number
        champion(number)
        try:
            async with board.held(number):
                progress.say(f"policy-{number} is champion now, and answers")
        except Exception as error:
            progress.say(f"policy-{number} is champion now, but could not be delivered: {error}")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
