"""Tools by name: a file, a `module:name`, what is registered under the kind `tool`, or an MCP server."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pydantic import Field

from autotelic.core.errors import UsageError
from autotelic.core.plugins import load_source
from autotelic.core.registry import lookup
from autotelic.core.words import Frozen
from autotelic.sandbox import Sandbox
from autotelic.tools._builtin import python_tool
from autotelic.tools._mcp import McpServer, mcp_tools
from autotelic.tools._tool import Tool, as_tool
from autotelic.tools._toolbox import DEFAULT_ALLOW, Toolbox

__all__ = ["ToolsConfig", "load_tools", "open_toolbox"]


class ToolsConfig(Frozen):
    """The tools of a run."""

    use: tuple[str, ...] = ()
    """What is there: `python`, `calculator`, `documents=FOLDER`, `sql=FILE`, `memory` and `skills` (of
    the run), any registered name, `tools.py` (every tool in the file), `package.module:name`, `mcp=URL` or
    `mcp=COMMAND`."""
    mcp: dict[str, McpServer] = Field(default_factory=dict)
    """MCP servers by a name of your choice."""
    allow: tuple[str, ...] = DEFAULT_ALLOW
    """What may be called: permission classes (pure, reads, writes, network) and names of single tools."""
    pick: int = Field(default=0, ge=0)
    """Where more tools than this are allowed, each task is offered so many, those that fit it best; 0 offers all."""
    pinned: tuple[str, ...] = ()
    """Tools that every task is offered, whatever `pick` says."""


@asynccontextmanager
async def open_toolbox(
    config: ToolsConfig,
    *,
    sandbox: str = "auto",
    workers: int = 2,
    made: Mapping[str, Sequence[Tool]] | None = None,
) -> AsyncIterator[Toolbox]:
    """Open everything that the config names; the tools can be called until the end.

    Args:
        config: which tools, and what is allowed.
        sandbox: back end for `python`.
        workers: programs that `python` runs at a time.
        made: tools that the caller has made, by the name under which a config may ask for them.

    Raises:
        UsageError: something is not there, cannot be loaded, or two tools have one name.
        SandboxError: `python` is wanted and no sandbox passes its self-test.
    """
    servers = dict(config.mcp)
    async with AsyncExitStack() as stack:
        box: Sandbox | None = None
        if "python" in config.use:
            box = await stack.enter_async_context(await Sandbox.open(sandbox, workers=workers))
        tools: list[Tool] = []
        for spec in config.use:
            if made and spec in made:
                tools += made[spec]
            elif spec.startswith("mcp="):
                servers[spec] = _server(spec.removeprefix("mcp="))
            else:
                tools += load_tools(spec, sandbox=box)
        for name, server in servers.items():
            tools += await stack.enter_async_context(mcp_tools(name, server))
        if strange := sorted(set(config.pinned) - {tool.name for tool in tools}):
            names = ", ".join(tool.name for tool in tools) or "none"
            raise UsageError(f"tools.pinned names {strange[0]!r}, and there is no such tool; there are: {names}.")
        yield Toolbox(tools, config.allow)


def load_tools(spec: str, *, sandbox: Sandbox | None = None) -> list[Tool]:
    """Return the tools that `spec` names.

    Args:
        spec: `path/to/tools.py` (every tool in it), `package.module:name` (a tool or a list of tools), `python`, a
            registered name, or `name=argument` where a function is registered that makes tools from a text. Such a
            function returns tools by its annotation, or has none for what it returns; any other is a tool itself.
        sandbox: where `python` runs.

    Raises:
        UsageError: nothing is found, it cannot be imported, it is no tool, or `python` has no sandbox.
    """
    if spec == "python":
        if sandbox is None:
            raise UsageError("the tool 'python' needs a sandbox. Open one with Sandbox.open() and pass it on.")
        return [python_tool(sandbox)]
    if spec in ("memory", "skills"):
        raise UsageError(f"the tools {spec!r} are a run's own. Name one with --run.")
    name, given, argument = spec.partition("=")
    if given and not name.endswith(".py"):
        maker = lookup("tool", name)
        if not _makes_tools(maker):
            raise UsageError(f"the tool {name!r} takes nothing after '='. Name it alone.")
        found = _as_tools(maker(argument))
    elif spec.endswith(".py"):
        found = [as_tool(thing) for thing in vars(load_source(spec)).values() if _is_tool(thing)]
        if not found:
            raise UsageError(f"{spec} holds no tool. Mark a typed function in it with @autotelic.tool.")
    elif ":" in spec:
        found = _as_tools(_attribute(spec))
    else:
        thing = lookup("tool", spec)
        if _makes_tools(thing):
            raise UsageError(
                f"the tool {spec!r} is made from something. Say from what: {spec}=... (If the function itself is the "
                "tool, mark it with @autotelic.tool.)"
            )
        found = _as_tools(thing)
    names = [tool.name for tool in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{spec} holds more than one tool called {', '.join(twice)}. Rename one.")
    return found


def _server(target: str) -> McpServer:
    if target.startswith(("http://", "https://")):
        return McpServer(url=target)
    command = tuple(shlex.split(target))
    if not command:
        raise UsageError("mcp= names no server. Give a URL or a command: mcp=http://127.0.0.1:8000/mcp")
    return McpServer(command=command)


def _as_tools(thing: Any) -> list[Tool]:
    return [as_tool(part) for part in (thing if isinstance(thing, list | tuple) else [thing])]


def _is_tool(thing: Any) -> bool:
    from langchain_core.tools import BaseTool

    return isinstance(thing, Tool | BaseTool)


def _makes_tools(thing: Any) -> bool:
    """Whether a thing is a function that makes tools, by what it says it returns."""
    if not inspect.isfunction(thing):
        return False
    returned = inspect.signature(thing).return_annotation
    return returned is inspect.Signature.empty or re.search(r"Tool\b", str(returned)) is not None


def _attribute(spec: str) -> Any:
    module, _, name = spec.partition(":")
    try:
        return vars(load_source(module))[name]
    except KeyError:
        raise UsageError(f"{module} has no {name!r}. Check the part after the colon in {spec!r}.") from None
