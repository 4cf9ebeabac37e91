"""Who answers in the browser, opened when somebody is first asked: looking at chats takes no model server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from autotelic.core.progress import Progress
from autotelic.core.run_dir import RunDir
from autotelic.graphs.chats import Chat, Chats, open_chats
from autotelic.graphs.chatting import build_chat
from autotelic.graphs.source import Source
from autotelic.tools import ToolsConfig
from autotelic.ui.talk import Talk
from autotelic.ui.voices import Voices, open_voices

__all__ = ["Opener", "Place", "Standby", "opener_of"]


@dataclass(frozen=True)
class Place:
    """Chats, and who can be asked in them."""

    chats: Chats
    """The chats."""
    voices: Voices
    """Who can be asked."""

    def talk(self, chat: Chat | None = None) -> Talk:
        """Return a person's place in a chat."""
        talk = Talk(self.chats, self.voices)
        talk.chat = chat
        return talk


Opener = Callable[[RunDir | None], AbstractAsyncContextManager[Place]]
"""Opens who answers: the policies of a run, or whoever answers where no run is named."""


def opener_of(
    source: Source,
    tools: ToolsConfig,
    threads: str | Path,
    progress: Callable[[], AbstractContextManager[Progress]],
    *,
    memory: bool = False,
    rounds: int = 2,
    max_tokens: int = 256,
) -> Opener:
    """Return what opens who answers.

    Args:
        source: who answers where no run is named.
        tools: which there are, and what may be called without a person's yes.
        threads: where chats are kept.
        progress: shows how far opening is.
        memory: whether a run's memory is used; nobody else can change it then.
        rounds: most revisions that a critic may bring about.
        max_tokens: bound on a draft, tokens.
    """

    @asynccontextmanager
    async def opened(run: RunDir | None) -> AsyncIterator[Place]:
        asked = source if run is None else Source(run=run.root)
        async with AsyncExitStack() as stack:
            with progress() as shown:
                opening = open_voices(asked, tools, shown, log="chat.log", person=True, memory=memory)
                voices = await stack.enter_async_context(opening)
            graph = build_chat(voices.chat(rounds=rounds, max_tokens=max_tokens))
            chats = await stack.enter_async_context(open_chats(threads, graph))
            yield Place(chats, voices)

    return opened


class Standby:
    """Who answers, opened when first wanted, and for one run at a time: there may be room for one server only.

    Args:
        opener: opens who answers.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._turn = asyncio.Lock()
        self._free = asyncio.Event()
        self._free.set()
        self._holders = 0
        self._run: Path | None = None
        self._kept: _Kept | None = None

    def is_open(self, run: RunDir | None) -> bool:
        """Whether this run's answer at once."""
        kept = self._kept
        return kept is not None and kept.place.done() and not kept.failed and self._run == _root(run)

    @asynccontextmanager
    async def held(self, run: RunDir | None) -> AsyncIterator[Place]:
        """Hold who answers, once those of another run are done."""
        async with self._turn:
            if self._kept is not None and (self._run != _root(run) or self._kept.failed):
                await self._free.wait()
                await self.aclose()
            if self._kept is None:
                self._run, self._kept = _root(run), _Kept(self._opener(run))
            place = await asyncio.shield(self._kept.place)
            self._holders += 1
            self._free.clear()
        try:
            yield place
        finally:
            self._holders -= 1
            if not self._holders:
                self._free.set()

    async def aclose(self) -> None:
        """Close whoever is open."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.aclose()


class _Kept:
    """A context that is opened and closed by one task, whichever requests want what is in it."""

    def __init__(self, manager: AbstractAsyncContextManager[Place]) -> None:
        self.place: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._end = asyncio.Event()
        self._task = asyncio.create_task(self._keep(manager))

    @property
    def failed(self) -> bool:
        """Whether it could not be opened."""
        return self.place.done() and (self.place.cancelled() or self.place.exception() is not None)

    async def aclose(self) -> None:
        """Close it; an opening that is under way is broken off."""
        if not self.place.done():
            self._task.cancel()
        self._end.set()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self, manager: AbstractAsyncContextManager[Place]) -> None:
        try:
            async with manager as place:
                self.place.set_result(place)
                await self._end.wait()
        except Exception as error:
            if self.place.done():
                raise
            self.place.set_exception(error)
        finally:
            self.place.cancel()


def _root(run: RunDir | None) -> Path | None:
    return None if run is None else run.root
