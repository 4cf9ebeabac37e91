"""`autotelic ui`: the browser app, and a run written as pages that open from disk."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotelic.cli.graphs import ThreadsOption
from autotelic.cli.tools import AllowOption, ToolOption, tools_config

if TYPE_CHECKING:
    from autotelic.ui.site_chat import ChatPages

__all__ = ["ui"]


def ui(
    runs: Annotated[Path, typer.Argument(help="Directory that holds runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    configs: Annotated[Path, typer.Option(help="Directory of the configs that sessions can be started from.")] = Path(
        "configs"
    ),
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a run as pages into a new folder, and end.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="With --export: name of the run.")] = None,
    most: Annotated[int, typer.Option(min=1, help="With --export: most trajectories, the newest rounds first.")] = 2000,
    chat: Annotated[bool, typer.Option("--chat/--no-chat", help="Talk with policies, of a run at its chat.")] = True,
    model: Annotated[str, typer.Option(help="Who answers in a chat of no run: what vLLM serves.")] = "",
    remote: Annotated[str | None, typer.Option(help="Or a model called through LiteLLM, e.g. openai/NAME.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server for --remote.")] = None,
    tool: ToolOption = None,
    allow: AllowOption = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Use what a run remembers in its chats; its library stays as it is then.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=0, help="Most revisions a critic may bring about in a chat.")] = 2,
    max_tokens: Annotated[int, typer.Option(min=1, help="Bound on a draft in a chat, tokens.")] = 256,
    threads: ThreadsOption = None,
) -> None:
    """Look at sessions in a browser, start and stop them, decide what waits for a person, talk, until Ctrl-C.

    Chats are those of autotelic chat. A model server is started when somebody is first asked, one at a time.
    """
    from autotelic.core.errors import MissingPackage, UsageError

    try:
        from autotelic.ui.site import show_site
        from autotelic.ui.site_export import export_run
    except ModuleNotFoundError as error:
        raise MissingPackage(str(error.name), "endpoint") from None

    if (export is None) != (run is None):
        raise UsageError("--export FOLDER and --run NAME go together: one names where to write, the other what.")
    if export is not None and run is not None:
        written = export_run(runs, run, export, most=most)
        sys.stdout.write(f"{written} pages written, open {export / 'index.html'}\n")
        return

    def ready(url: str) -> None:
        sys.stdout.write(f"open {url}\n")
        sys.stdout.flush()

    def talking() -> ChatPages:
        from autotelic.cli.bars import Bars
        from autotelic.graphs.running import threads_file
        from autotelic.graphs.source import Source
        from autotelic.ui.site_chat import ChatPages
        from autotelic.ui.standby import opener_of

        place, tools = threads or threads_file(), tools_config(tool, allow)
        source = Source(run=None, model=model, remote=remote, base_url=base_url)
        opener = opener_of(source, tools, place, Bars, memory=memory, rounds=rounds, max_tokens=max_tokens)
        return ChatPages(place, opener)

    async def show() -> None:
        async with AsyncExitStack() as stack:
            pages = await stack.enter_async_context(talking()) if chat else None
            await show_site(runs, host, port, ready, configs=configs, chat=pages)

    asyncio.run(show())
