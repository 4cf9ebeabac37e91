"""The chat in the browser: the same chats as in the terminal, the same acts, done by the same `Talk`.

An act is a POST that is answered line by line while agents work. Who drops it cuts the answer off, and the thread
keeps what it had come to; one act at a time is done in a chat, a second is refused. Looking at chats needs no model:
whoever answers is opened when somebody is first asked, for one run at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from autotelic.core.errors import AutotelicError, UsageError
from autotelic.core.registry import available
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Frozen, PolicyState
from autotelic.graphs.acts import Attached, Turn
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.chats import Chat, open_chats
from autotelic.graphs.chatting import ChatContext, build_chat
from autotelic.graphs.running import Event
from autotelic.serving import Gateway, ScriptedBackend
from autotelic.store import Ledger, PolicyRow
from autotelic.ui.site import NoRun, Site
from autotelic.ui.standby import Opener, Place, Standby
from autotelic.ui.talk import Note, Talk
from autotelic.ui.teaching import let_go
from autotelic.ui.voices import Voices

__all__ = ["Asked", "ChatPages"]

_ASKING = frozenset({"say", "wrong", "retry", "compare", "resume", "allow", "deny"})
_JUDGING = frozenset({"accept", "reject", "edit", "rate", "choose"})
_MOST_TEXT = 200_000
_MOST_FILES = 8
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_KINDS = {"md": ("markdown", "text/markdown"), "json": ("json", "application/json")}


class Asked(Frozen):
    """What a person wants done in a chat, as the page sends it."""

    do: Literal[
        "say", "wrong", "retry", "compare", "resume", "allow", "deny", "accept", "reject", "edit", "rate", "choose",
        "undo", "name", "learn",
    ]  # fmt: skip
    """A command of `Talk`, or `say`, or `resume` for an answer that was cut off."""
    text: str = Field(default="", max_length=_MOST_TEXT)
    """What goes with it."""
    who: str = Field(default="", max_length=200)
    """Who is to answer; empty is the champion."""
    files: tuple[Attached, ...] = Field(default=(), max_length=_MOST_FILES)
    """What is given with a question."""


Tell = Callable[[Mapping[str, Any]], None]


class ChatPages:
    """The pages of the chat; an async context that opens the chats, and closes whoever was opened.

    Args:
        threads: where chats are kept, see `open_chats`.
        opener: opens who answers.
    """

    def __init__(self, threads: str | Path, opener: Opener) -> None:
        self._threads = threads
        self._open = Standby(opener)
        self._working: dict[str, asyncio.Task[None]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> ChatPages:
        graph = build_chat(ChatContext(_NOBODY))
        self._chats = await self._stack.enter_async_context(open_chats(self._threads, graph))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._working.values()):
            task.cancel()
        await asyncio.gather(*self._working.values(), return_exceptions=True)
        await self._open.aclose()
        await self._stack.aclose()

    def routes(self, site: Site) -> list[Route]:
        """Return the routes: for every run, and without one."""
        self._site = site
        return [route for prefix in ("", "/runs/{run}") for route in self._routes(f"{prefix}/chat")]

    def _routes(self, at: str) -> list[Route]:
        shown = self._site.shown
        return [
            Route(at, shown(self.all), methods=["GET"]),
            Route(at, shown(self.begin), methods=["POST"]),
            Route(f"{at}/{{chat}}", shown(self.one), methods=["GET"]),
            Route(f"{at}/{{chat}}/state", shown(self.state), methods=["GET"]),
            Route(f"{at}/{{chat}}/act", shown(self.act), methods=["POST"]),
            Route(f"{at}/{{chat}}/fork", shown(self.fork), methods=["POST"]),
            Route(f"{at}/{{chat}}/forget", shown(self.forget), methods=["POST"]),
            Route(f"{at}/{{chat}}/export/{{form}}", shown(self.export), methods=["GET"]),
        ]

    async def all(self, request: Request) -> Response:
        """All chats, or those that hold some words."""
        words = request.query_params.get("words", "")[:1000]
        with self._look(request) as place:
            found = await place.chats.all(words)
        return self._page(request, "chats", title="Chat", found=found[:200], total=len(found), words=words)

    async def begin(self, request: Request) -> Response:
        """Begin a chat."""
        with self._look(request) as place:
            talk = place.talk()
            await _done(talk, f"/new {request.state.form.get('name', '')[:200]}")
        return self._to(request, talk.chat)

    async def one(self, request: Request) -> Response:
        """One chat. What was said in it comes with its state."""
        with self._look(request) as place:
            chat = await _found(place, request)
            champion, known = place.voices.policies()
        if chat is None:
            return self._site.missing("There is no such chat.")
        names = ["champion", *(f"policy-{number}" for number in known), *available("strategy")]
        return self._page(request, "chat", title=chat.name or "A new chat", chat=chat, names=names, champion=champion)

    async def state(self, request: Request) -> Response:
        """What was said, and whether somebody is working on it."""
        with self._look(request) as place:
            chat = await _found(place, request)
            if chat is None:
                return _refused(404, "there is no such chat.")
            state = await _state(place, chat.id)
        return JSONResponse(state | {"busy": chat.id in self._working}, headers=_HEADERS)

    async def act(self, request: Request) -> Response:
        """Do something; what happens is told line by line, and at last how the chat stands."""
        try:
            asked = Asked.model_validate_json(await request.body())
        except ValidationError as error:
            too_long = any(one["type"] in ("string_too_long", "too_long") for one in error.errors())
            return (
                _refused(413, "that is too long.") if too_long else _refused(400, "that is nothing that can be done.")
            )
        run = self._run(request)
        with self._look(request) as place:
            chat = await _found(place, request)
        if chat is None:
            return _refused(404, "there is no such chat.")
        if chat.id in self._working:
            return _refused(409, "this chat is being worked on. Wait until it is done, or stop it.")
        told: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        working = asyncio.create_task(self._work(run, chat, asked, told.put_nowait))
        self._working[chat.id] = working
        working.add_done_callback(lambda _: self._working.pop(chat.id, None))
        working.add_done_callback(lambda _: told.put_nowait(None))
        return _Told(told, working)

    async def fork(self, request: Request) -> Response:
        """Go on in a copy."""
        with self._look(request) as place:
            chat = self._free(await _found(place, request))
            talk = place.talk(chat)
            await _done(talk, f"/fork {request.state.form.get('name', '')[:200]}")
        return self._to(request, talk.chat)

    async def forget(self, request: Request) -> Response:
        """Delete a chat, and what any run was to learn from it."""
        with self._look(request) as place:
            chat = self._free(await _found(place, request))
            runs = [str(run.root) for name in self._site.runs.names() if (run := self._site.runs.open(name))]
            left = let_go(chat, await place.chats.question(chat.id), runs)
            await place.chats.forget(chat.id)
        if left:
            text = f"The chat is deleted. What it taught stays where a run could not be reached: {' '.join(left)}"
            return self._site.page("message", title="Deleted", text=text, run=request.path_params.get("run"))
        return self._to(request, None)

    async def export(self, request: Request) -> Response:
        """A chat as a file."""
        form = request.path_params["form"]
        with self._look(request) as place:
            chat = await _found(place, request)
            if chat is None or form not in _KINDS:
                return self._site.missing("There is no such chat, or not in this form.")
            text = await place.chats.export(chat.id, _KINDS[form][0])
        named = {"content-disposition": f'attachment; filename="chat-{chat.id}.{form}"'}
        return Response(text, media_type=_KINDS[form][1], headers=_HEADERS | named)

    async def _work(self, run: RunDir | None, chat: Chat, asked: Asked, tell: Tell) -> None:
        try:
            async with self._place(run, chat, asked, tell) as place:
                talk = place.talk(await place.chats.find(chat.id))
                try:
                    async for event in _doing(talk, asked):
                        if (told := _wire(event)) is not None:
                            tell(told)
                except AutotelicError as error:
                    tell({"kind": "error", "text": str(error)})
                tell({"kind": "state", **await _state(place, chat.id), "busy": False})
        except AutotelicError as error:
            tell({"kind": "error", "text": str(error)})
        except Exception as error:
            tell({"kind": "error", "text": f"this went wrong: {type(error).__name__}. See what the program printed."})
            raise

    @asynccontextmanager
    async def _place(self, run: RunDir | None, chat: Chat, asked: Asked, tell: Tell) -> AsyncIterator[Place]:
        """Open who answers if an answer is wanted, or one that was cut off has to be finished first."""
        with self._looking(run) as place:
            pending = await place.chats.pending(chat.id)
            if asked.do not in _ASKING and not (pending and asked.do in _JUDGING):
                yield place
                return
        if not self._open.is_open(run):
            tell({"kind": "opening"})
        async with self._open.held(run) as place:
            yield place

    def _look(self, request: Request) -> AbstractContextManager[Place]:
        return self._looking(self._run(request))

    @contextmanager
    def _looking(self, run: RunDir | None) -> Iterator[Place]:
        """The chats with nobody to answer in them: that takes no server."""
        ledger = None if run is None else Ledger(run.ledger)
        try:
            yield Place(self._chats, Voices(_NOBODY, policies=lambda: _policies(ledger), ledger=ledger, run=run))
        finally:
            if ledger is not None:
                ledger.close()

    def _run(self, request: Request) -> RunDir | None:
        name = request.path_params.get("run")
        run = None if name is None else self._site.runs.open(name)
        if name is not None and run is None:
            raise NoRun
        return run

    def _free(self, chat: Chat | None) -> Chat:
        if chat is None:
            raise UsageError("there is no such chat.")
        if chat.id in self._working:
            raise UsageError("this chat is being worked on. Wait until it is done, or stop it.")
        return chat

    def _page(self, request: Request, name: str, **data: Any) -> Response:
        return self._site.page(name, run=request.path_params.get("run"), here="chat", at=_at(request), **data)

    def _to(self, request: Request, chat: Chat | None) -> Response:
        return RedirectResponse(f"{_at(request)}{f'/{chat.id}' if chat else ''}", 303, headers=_HEADERS)


class _Told(StreamingResponse):
    """Lines of JSON as they come. Who stops listening stops the work."""

    def __init__(self, told: asyncio.Queue[Mapping[str, Any] | None], working: asyncio.Task[None]) -> None:
        super().__init__(self._lines(told), media_type="application/x-ndjson", headers=_HEADERS)
        self._working = working

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._working.cancel()

    async def _lines(self, told: asyncio.Queue[Mapping[str, Any] | None]) -> AsyncIterator[str]:
        while (one := await told.get()) is not None:
            yield json.dumps(one, ensure_ascii=False) + "\n"
        if not self._working.cancelled():
            await self._working  # raises what nobody foresaw


def _silence(*_: object) -> list[str]:
    raise UsageError("nobody can answer here.")


_NOBODY = GraphContext(Gateway(ScriptedBackend(_silence)))


async def _doing(talk: Talk, asked: Asked) -> AsyncIterator[Event | Note]:
    """Have `Talk` do it. What a person writes is never a command, and no file of this machine is opened for it."""
    if asked.do == "resume":
        async for event in talk.resume():
            yield event
        return
    if asked.do != "say":
        async for happened in talk.line(f"/{asked.do} {asked.who if asked.do == 'retry' else asked.text}"):
            yield happened
        return
    if not asked.text.strip():
        raise UsageError("nothing was said.")
    await _done(talk, f"/who {asked.who.strip() or 'champion'}")
    for file in asked.files:
        talk.give(file)
    text = asked.text.strip()
    async for happened in talk.line(f"/{text}" if text.startswith("/") else text):
        yield happened


async def _done(talk: Talk, line: str) -> None:
    async for _ in talk.line(line):
        pass


async def _found(place: Place, request: Request) -> Chat | None:
    try:
        return await place.chats.find(request.path_params["chat"])
    except UsageError:
        return None


async def _state(place: Place, id: str) -> dict[str, Any]:
    """How a chat stands, as the page shows it."""
    chat = await place.chats.find(id)
    return {
        "chat": chat.model_dump(exclude={"words"}),
        "turns": [_turn(turn) for turn in await place.chats.turns(id)],
        "pending": await place.chats.pending(id),
        "question": await place.chats.question(id),
        "can_learn": place.voices.ledger is not None or chat.learn,  # what was allowed elsewhere is forbidden here too
    }


def _turn(turn: Turn) -> dict[str, Any]:
    """A turn without the contents of files, and without the names of two that are to be told apart by their words."""
    shown = turn.model_dump(mode="json")
    shown["files"] = [{"name": file.name, "characters": len(file.text)} for file in turn.files]
    if turn.pair is not None and turn.chosen is None:
        shown["pair"] = [{"text": said.text} for said in turn.pair]
    return shown


def _wire(event: Event | Note) -> dict[str, Any] | None:
    """What the page is told of an event."""
    if isinstance(event, Note):
        return {"kind": "note", "text": event.text}
    if event.kind == "token":
        return {"kind": "token", "text": str(event.data)}
    if event.kind != "node" or not event.data:
        return None
    if event.node == "call":
        return {"kind": "calls", "calls": event.data["work"]["calls"]}
    if event.node in ("draft", "criticise") and event.data.get("turns"):
        return {"kind": event.node, "draft": event.data["turns"][-1]["drafts"][-1]}
    return None


def _policies(ledger: Ledger | None) -> tuple[int, list[int]]:
    if ledger is None:
        return 0, []
    rows = ledger.rows(PolicyRow, order="number")
    known = [row.number for row in rows if row.state != PolicyState.DISCARDED.value]
    return (ledger.champion().number if known else 0), known


def _refused(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status, headers=_HEADERS)


def _at(request: Request) -> str:
    """Where the chats are: `/chat`, or those of a run."""
    run = request.path_params.get("run")
    return "/chat" if run is None else f"/runs/{quote(run, safe='')}/chat"
