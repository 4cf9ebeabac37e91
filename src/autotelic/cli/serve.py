"""`autotelic serve`: an OpenAI-compatible endpoint over policies, strategies and graphs."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotelic.cli.tools import AllowOption, ToolOption, tools_config

__all__ = ["serve"]


def serve(
    run: Annotated[Path | None, typer.Option(help="A run whose policies answer.")] = None,
    model: Annotated[str, typer.Option(help="Without --run: name, directory or hub id that vLLM serves.")] = "",
    remote: Annotated[str | None, typer.Option(help="A model called through LiteLLM, e.g. openai/NAME.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server for --remote.")] = None,
    graph: Annotated[list[str] | None, typer.Option(help="A graph of yours to offer, file.py:name.")] = None,
    tool: ToolOption = None,
    allow: AllowOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File of keys, one a line; else one is made and shown.")] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Ask for no key; on the loopback only.")] = False,
    origin: Annotated[list[str] | None, typer.Option(help="Origin of a page that may ask from a browser.")] = None,
    rate: Annotated[float, typer.Option(min=1, help="Requests in a minute that a key may make.")] = 600.0,
    size: Annotated[int, typer.Option(min=1024, help="Most bytes of a request.")] = 2**20,
    traces: Annotated[str | None, typer.Option(help="OpenTelemetry collector: http://HOST:4318/v1/traces.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as a line of JSON.")] = False,
) -> None:
    """Serve policies, strategies and graphs behind an OpenAI-compatible address, until Ctrl-C.

    Models are called champion, policy-N, champion:STRATEGY (e.g. champion:self-consistency-8) and graph:NAME.
    """
    from autotelic.cli.bars import Bars
    from autotelic.graphs.source import Source
    from autotelic.ui import Address, Offer, keys_of
    from autotelic.ui import serve as serve_until_told

    chosen = () if no_key else keys_of(keys)
    source = Source(run=run, model=model, remote=remote, base_url=base_url)
    offer = Offer(source, tools_config(tool, allow), tuple(graph or ()))
    address = Address(host, port, chosen, tuple(origin or ()), size, rate, traces=traces)

    def ready(url: str, models: list[str]) -> None:
        shown = chosen[0] if chosen and keys is None else None
        if as_json:
            sys.stdout.write(json.dumps({"url": url, "key": shown, "models": models}) + "\n")
        else:
            says = f"listening on {url}\nmodels: {', '.join(models)}\n"
            sys.stdout.write(says + (f"key: {shown}\n" if shown else ""))
        sys.stdout.flush()

    with Bars() as bars:
        asyncio.run(serve_until_told(offer, address, bars, ready))
