"""Chats that are kept: named, found again, gone on with, undone, forked, exported, forgotten.

A chat is a thread of the chat graph. Its state lies in the checkpoints, all that is needed to find it (name, times,
words) beside them in LangGraph's store: in the same PostgreSQL database, or in an SQLite file of its own. There the
store reads and writes in one transaction, which fails at once if somebody else has written to the file meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore
from pydantic import Field

from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen
from autotelic.graphs.acts import Act, Turn
from autotelic.graphs.chatting import ChatState, turns_of
from autotelic.graphs.running import NO_REPLY, Event, is_postgres, open_threads, stream

__all__ = ["Chat", "Chats", "open_chats"]

T = TypeVar("T")
_SHELF = ("chats",)
_WORDS = 20_000
_PAGE = 200
_TRIES = 12


class Chat(Frozen):
    """What is known of a chat without opening it."""

    id: str
    """Thread."""
    name: str
    """What a person calls it; at first its first words."""
    created_at: str
    """ISO 8601, UTC."""
    updated_at: str
    """Of the last act."""
    turns: int = 0
    """Questions."""
    learn: bool = False
    """Whether what is said in it may be trained on."""
    run: str = ""
    """Directory of the run that may learn from it; empty if none ever might, or in chats of before it was kept."""
    words: str = Field(default="", repr=False)
    """What was said, as far as it is searched."""


class Chats:
    """All chats of one place. Made by `open_chats`.

    Args:
        graph: see `build_chat`.
        saver: holds the checkpoints.
        store: holds what chats are found by.
    """

    def __init__(self, graph: Any, saver: BaseCheckpointSaver[Any], store: BaseStore) -> None:
        self._graph = graph.copy(update={"checkpointer": saver})
        self._saver = saver
        self._store = store

    async def begin(self, name: str = "", *, learn: bool = False, run: str = "") -> Chat:
        """Begin a chat, from which the `run` may `learn`."""
        now = _now()
        chat = Chat(id=uuid.uuid4().hex[:12], name=name, created_at=now, updated_at=now, learn=learn, run=run)
        await self._keep(chat)
        return chat

    async def find(self, chat: str) -> Chat:
        """Return the chat with this id, or with this name if only one has it.

        Raises:
            UsageError: there is none, or there are several.
        """
        item = await _patiently(lambda: self._store.aget(_SHELF, chat))
        if item is not None:
            return Chat.model_validate(item.value)
        named = [one for one in await self.all() if one.name == chat]
        if len(named) == 1:
            return named[0]
        if named:
            ids = ", ".join(one.id for one in named)
            raise UsageError(f"{len(named)} chats are called {chat!r}: {ids}. Give one of these.")
        raise UsageError(f"there is no chat {chat!r}. See: autotelic chat --list.")

    async def all(self, words: str = "") -> list[Chat]:
        """Return the chats that hold all the given words, the latest first."""
        found: list[Chat] = []
        while True:
            begin = len(found)
            page = await _patiently(partial(self._store.asearch, _SHELF, limit=_PAGE, offset=begin))
            found += [Chat.model_validate(item.value) for item in page]
            if len(page) < _PAGE:
                break
        wanted = words.lower().split()
        matching = [one for one in found if all(word in f"{one.name} {one.words}".lower() for word in wanted)]
        return sorted(matching, key=lambda one: one.updated_at, reverse=True)

    async def turns(self, chat: str) -> list[Turn]:
        """Return a chat's conversation."""
        return turns_of(await self._state(chat))

    async def pending(self, chat: str) -> bool:
        """Whether an answer was cut off: `resume` goes on with it."""
        return bool((await self._graph.aget_state(_config(chat))).next)

    async def act(self, chat: str, act: Act) -> AsyncIterator[Event]:
        """Do something in a chat; yields what happens. An answer that was cut off is finished first.

        Raises:
            UsageError: it cannot be done, or the chat waits for an answer of the person's.
            ServingError: the model gave no answer; `resume` tries again.
        """
        async for event in self.resume(chat):
            yield event
        if (question := await self.question(chat)) is not None:
            raise UsageError(f"first this waits for you: {question.get('ask')}")
        before = await self._graph.aget_state(_config(chat))
        try:
            async for event in self._run(chat, {"act": act.model_dump(mode="json")}):
                yield event
        except UsageError:
            await self._back(chat, before)
            raise

    async def resume(self, chat: str) -> AsyncIterator[Event]:
        """Go on with an answer that was cut off; nothing if there is none. What waits for a person is shown again."""
        if await self.pending(chat):
            async for event in self._run(chat, None):
                yield event

    async def question(self, chat: str) -> dict[str, Any] | None:
        """Return what the chat waits for the person to answer, `None` if it does not."""
        found = (await self._graph.aget_state(_config(chat))).interrupts
        return dict(found[0].value) if found else None

    async def answer(self, chat: str, yes: bool) -> AsyncIterator[Event]:
        """Answer what the chat waits for, and go on.

        Raises:
            UsageError: it does not wait.
        """
        if await self.question(chat) is None:
            raise UsageError("nothing waits for an answer.")
        async for event in self._run(chat, None, answer=yes):
            yield event

    async def undo(self, chat: str) -> list[Turn]:
        """Take the last act back; return the conversation as it was before it.

        Raises:
            UsageError: there is nothing to take back.
        """
        begun = await self._graph.aget_state(_config(chat))
        if not begun.values:
            raise UsageError("there is nothing to undo.")
        # Along the parents, not through the list: that also has what was taken back before.
        while begun.parent_config is not None and (begun.metadata or {}).get("source") != "input":
            begun = await self._graph.aget_state(begun.parent_config)
        if (begun.metadata or {}).get("source") != "input":  # a fork's beginning: no act of this chat's led to it
            raise UsageError("there is nothing to undo.")
        await self._back(chat, await self._graph.aget_state(begun.parent_config) if begun.parent_config else None)
        turns = await self.turns(chat)
        await self._note(chat, turns)
        return turns

    async def fork(self, chat: str, name: str = "") -> Chat:
        """Begin a chat that has come as far as this one; neither changes the other."""
        old = await self.find(chat)
        new = await self.begin(name or f"{old.name} (fork)", learn=False)
        state = await self._state(chat)
        await self._graph.aupdate_state(_config(new.id), {"turns": state.get("turns", [])}, as_node="settle")
        await self._note(new.id, turns_of(state))
        return await self.find(new.id)

    async def change(self, chat: str, **changes: Any) -> Chat:
        """Change a chat's `name`, or whether one may `learn` from it, and which `run`."""
        changed = (await self.find(chat)).model_copy(update=changes)
        await self._keep(changed)
        return changed

    async def forget(self, chat: str) -> None:
        """Delete a chat with all its checkpoints."""
        await self._saver.adelete_thread(chat)
        await _patiently(lambda: self._store.adelete(_SHELF, chat))

    async def export(self, chat: str, form: str) -> str:
        """Return a chat as `markdown` or `json`."""
        known, turns = await self.find(chat), await self.turns(chat)
        if form == "json":
            shown = known.model_dump(exclude={"words"}) | {"turns": [turn.model_dump(mode="json") for turn in turns]}
            return json.dumps(shown, indent=2, ensure_ascii=False)
        return _markdown(known, turns)

    async def _run(self, chat: str, payload: dict[str, Any] | None, *, answer: Any = NO_REPLY) -> AsyncIterator[Event]:
        async for event in stream(self._graph, payload, self._saver, chat, answer=answer):
            if event.kind == "end":
                await self._note(chat, turns_of(event.data))
            yield event

    async def _back(self, chat: str, state: Any) -> None:
        """Make an earlier state the latest; without one the chat is empty."""
        if state is None or not state.values:
            await self._saver.adelete_thread(chat)
        else:
            await self._graph.aupdate_state(state.config, None, as_node="__copy__")

    async def _state(self, chat: str) -> ChatState:
        return cast(ChatState, (await self._graph.aget_state(_config(chat))).values)

    async def _note(self, chat: str, turns: list[Turn]) -> None:
        known = await self.find(chat)
        name = known.name or (" ".join(turns[0].question.split())[:60] if turns else "")
        words = "\n".join(part for turn in turns for part in (turn.question, turn.answer or ""))[-_WORDS:]
        fresh = {"name": name, "updated_at": _now(), "turns": len(turns), "words": words}
        await self._keep(known.model_copy(update=fresh))

    async def _keep(self, chat: Chat) -> None:
        await _patiently(lambda: self._store.aput(_SHELF, chat.id, chat.model_dump()))


@asynccontextmanager
async def open_chats(place: str | Path, graph: Any) -> AsyncIterator[Chats]:
    """Open the chats in an SQLite file, or in PostgreSQL by `postgresql://...`.

    Args:
        place: where threads are kept.
        graph: see `build_chat`.
    """
    async with AsyncExitStack() as stack:
        saver = await stack.enter_async_context(open_threads(place))
        if is_postgres(place):
            from langgraph.store.postgres.aio import AsyncPostgresStore

            store: Any = await stack.enter_async_context(AsyncPostgresStore.from_conn_string(str(place)))
        else:
            from langgraph.store.sqlite.aio import AsyncSqliteStore

            file = Path(place).expanduser()
            beside = str(file.with_stem(f"{file.stem}-chats"))
            store = await stack.enter_async_context(AsyncSqliteStore.from_conn_string(beside))
        await store.setup()
        yield Chats(graph, saver, store)


async def _patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do it again while another process is writing to the file."""
    for attempt in range(_TRIES):
        try:
            return await work()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or attempt == _TRIES - 1:
                raise
            await asyncio.sleep(0.02 * 2 ** min(attempt, 6))
    raise AssertionError("the last try returns or raises")


def _config(chat: str) -> Any:
    return {"configurable": {"thread_id": chat}}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _markdown(chat: Chat, turns: list[Turn]) -> str:
    lines = [f"# {chat.name or chat.id}", "", f"{chat.created_at} to {chat.updated_at}", ""]
    for turn in turns:
        lines += ["## Question", "", turn.asked(), ""]
        for number, draft in enumerate(turn.drafts, 1):
            lines += [f"Draft {number}" + ("" if draft.policy is None else f" (policy-{draft.policy})") + ":", ""]
            called = [f"- `{one.call.name} {one.call.arguments}`: {one.result.reason}" for one in draft.calls]
            lines += [*called, *[""] * bool(called), *(f"> {line}" for line in draft.text.splitlines() or [""]), ""]
            if draft.critique is not None:
                sure = (
                    "" if draft.critique.confidence is None else f", {draft.critique.confidence:.0%} sure it is right"
                )
                said = " ".join(part for part in (draft.critique.fault, draft.critique.advice) if part)
                lines += [f"Critic: {draft.critique.verdict}{sure}. {said}", ""]
        lines += [f"You: {complaint}" for complaint in turn.complaints] + [""] * bool(turn.complaints)
        how = "" if turn.verdict is None else f" ({turn.verdict})"
        lines += [f"## Answer{how}", "", turn.answer if turn.answer is not None else "(none)", ""]
    return "\n".join(lines)
