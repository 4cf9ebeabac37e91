"""What `langgraph.json` names: our graphs, as LangGraph's own dev server opens them. It brings the threads itself.

`AUTOTELIC_RUN` names a run whose champion answers with its memory; `AUTOTELIC_REMOTE` a model that LiteLLM calls
(`AUTOTELIC_BASE_URL` its address); without either the default model is served here. Opened at the first run, shared by
all, closed with the process.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from langgraph_sdk.runtime import ServerRuntime

from autotelic.cli.graphs import nobody
from autotelic.core.progress import Silent
from autotelic.graphs import GraphContext, build_ask, build_refine
from autotelic.graphs.source import Source, graph_context
from autotelic.tools import ToolsConfig

__all__ = ["refine", "solve"]

_opened: GraphContext | None = None
_opening = asyncio.Lock()
_open = AsyncExitStack()


async def solve(runtime: ServerRuntime[Any]) -> Any:
    """Return the graph `solve`; only for a run is a model opened, not to look at the graph."""
    return build_ask(await _context() if runtime.execution_runtime else nobody())


async def refine(runtime: ServerRuntime[Any]) -> Any:
    """Return the graph `refine`, which answers by the strategy in `AUTOTELIC_STRATEGY`."""
    context = await _context() if runtime.execution_runtime else nobody()
    return build_refine(replace(context, strategy=os.environ.get("AUTOTELIC_STRATEGY", context.strategy)))


async def _context() -> GraphContext:
    global _opened
    async with _opening:
        if _opened is None:
            run = os.environ.get("AUTOTELIC_RUN")
            source = Source(
                run=Path(run) if run else None,
                model=os.environ.get("AUTOTELIC_MODEL"),
                remote=os.environ.get("AUTOTELIC_REMOTE"),
                base_url=os.environ.get("AUTOTELIC_BASE_URL"),
            )
            use = tuple(os.environ.get("AUTOTELIC_TOOLS", "").split())
            _opened = await _open.enter_async_context(
                graph_context(source, tools=ToolsConfig(use=use), progress=Silent())
            )
        return _opened
