"""`autotelic chat`: refine an answer by talking."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from autotelic.cli.graphs import ThreadsOption
from autotelic.cli.shown import JsonOption, show
from autotelic.cli.tools import AllowOption, ToolOption, tools_config

__all__ = ["chat"]


def chat(
    name: Annotated[str | None, typer.Argument(help="Chat to go on with, by id or name; else a new one.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run whose policies answer.")] = None,
    model: Annotated[str, typer.Option(help="Without --run: name, directory or hub id that vLLM serves.")] = "",
    remote: Annotated[str | None, typer.Option(help="A model called through LiteLLM, e.g. openai/NAME.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server for --remote.")] = None,
    tool: ToolOption = None,
    allow: AllowOption = None,
    rounds: Annotated[int, typer.Option(min=0, help="Most revisions a critic may bring about.")] = 2,
    max_tokens: Annotated[int, typer.Option(min=1, help="Bound on a draft, tokens.")] = 256,
    plain: Annotated[bool, typer.Option("--plain", help="Change nothing once printed, for screen readers.")] = False,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Use what the run remembers.")] = True,
    learn: Annotated[bool, typer.Option("--learn", help="Allow training on what is said.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List chats and leave.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk with a policy: it drafts, a critic comments, it revises, you have the last word. Reads what is piped in.

    A tool that is not allowed by --allow may be called too, but each call waits for your /allow.
    """
    if listed:
        _list(threads, as_json)
        return
    from autotelic.cli.bars import Bars
    from autotelic.graphs.source import Source

    source = Source(run=run, model=model, remote=remote, base_url=base_url)
    tools = tools_config(tool, allow)

    async def talk() -> int:
        from autotelic.graphs.chats import open_chats
        from autotelic.graphs.chatting import build_chat
        from autotelic.graphs.running import threads_file
        from autotelic.ui.talk import Talk
        from autotelic.ui.terminal import run_piped, run_terminal
        from autotelic.ui.voices import open_voices

        async with AsyncExitStack() as stack:
            with Bars() as bars:
                opening = open_voices(source, tools, bars, log="chat.log", person=True, memory=memory)
                voices = await stack.enter_async_context(opening)
            graph = build_chat(voices.chat(rounds=rounds, max_tokens=max_tokens))
            chats = await stack.enter_async_context(open_chats(threads or threads_file(), graph))
            person = Talk(chats, voices, learn=learn)
            if name is not None:
                person.chat = await chats.find(name)
                if learn:
                    await person.consent()
            if not sys.stdin.isatty():
                return await run_piped(person, _lines())
            greeting = f"{person.chat.name}, {person.chat.turns} questions." if person.chat else "A new chat."
            await run_terminal(person, plain=plain, greeting=greeting)
            if person.chat is not None:
                sys.stderr.write(f"chat {person.chat.id}: go on with autotelic chat {person.chat.id}\n")
            return 0

    if code := asyncio.run(talk()):
        raise typer.Exit(code)


def _list(threads: str | None, as_json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from autotelic.cli.graphs import nobody
    from autotelic.graphs.chats import Chat, open_chats
    from autotelic.graphs.chatting import ChatContext, build_chat
    from autotelic.graphs.running import threads_file
    from autotelic.ui.terminal import harmless

    async def look() -> list[Chat]:
        async with open_chats(threads or threads_file(), build_chat(ChatContext(nobody()))) as chats:
            return await chats.all()

    found = asyncio.run(look())
    table = Table("chat", "last", "questions", "name")
    for one in found:
        table.add_row(one.id, one.updated_at[:16].replace("T", " "), str(one.turns), Text(harmless(one.name)))
    show([one.model_dump(exclude={"words"}) for one in found], as_json, table)


async def _lines() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line
