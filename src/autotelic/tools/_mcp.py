"""Tools of MCP servers, over stdio or streamable HTTP, through the protocol's own client.

A server's word about its tools is not trusted: whatever hints it gives, its tools count as `network` unless the person
who named the server says what they can do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from autotelic.core.errors import MissingPackage, UsageError
from autotelic.core.words import Frozen
from autotelic.tools._tool import Permission, Tool, ToolResult

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["McpServer", "mcp_tools"]


class McpServer(Frozen):
    """How one MCP server is reached: a command that speaks over stdio, or the URL of a streamable HTTP endpoint."""

    command: tuple[str, ...] = ()
    """Program and arguments to start. It gets a small environment: PATH, HOME and the like, and `env`."""
    env: dict[str, str] = Field(default_factory=dict)
    """More environment variables for `command`."""
    url: str | None = None
    """Address of a server that runs already, e.g. `http://127.0.0.1:8000/mcp`."""
    permission: Permission = "network"
    """What its tools can do at worst. Say less than `network` only of a server that you know."""
    tools: tuple[str, ...] | None = None
    """Names of the tools to take; all if not given."""
    seconds: float = Field(default=30.0, gt=0)
    """Bound on connecting, and on each call."""

    @model_validator(mode="after")
    def _one_way(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise ValueError("an MCP server needs either command or url")
        return self


@asynccontextmanager
async def mcp_tools(name: str, server: McpServer) -> AsyncIterator[list[Tool]]:
    """Connect to a server and give its tools, which can be called until the end.

    Raises:
        UsageError: it cannot be reached, or lacks a tool that was named.
        MissingPackage: `mcp` is not installed.
    """
    client = _client(server)
    try:
        async with asyncio.timeout(server.seconds):
            await client.__aenter__()
        offered = {tool.name: tool for tool in await _all_tools(client)}
    except Exception as error:
        where = server.url or " ".join(server.command)
        raise UsageError(
            f"the MCP server {name!r} ({where}) cannot be reached: {_innermost(error)}. Start or mend it."
        ) from error
    try:
        wanted = offered if server.tools is None else server.tools
        if missing := [tool for tool in wanted if tool not in offered]:
            raise UsageError(f"the MCP server {name!r} has no tool {missing[0]!r}; it has: {', '.join(offered)}.")
        yield [_tool(client, offered[tool], server) for tool in wanted]
    finally:
        await client.__aexit__(None, None, None)


def _client(server: McpServer) -> Client:
    try:
        from mcp import Client, StdioServerParameters
    except ModuleNotFoundError:
        raise MissingPackage("mcp", "mcp") from None
    target: Any = server.url
    if server.command:
        target = StdioServerParameters(command=server.command[0], args=list(server.command[1:]), env=server.env)
    return Client(target, read_timeout_seconds=server.seconds)


async def _all_tools(client: Client) -> list[Any]:
    page = await client.list_tools()
    found = list(page.tools)
    while page.next_cursor:
        page = await client.list_tools(cursor=page.next_cursor)
        found += page.tools
    return found


def _tool(client: Client, offered: Any, server: McpServer) -> Tool:
    async def call(arguments: dict[str, Any]) -> ToolResult:
        result = await client.call_tool(offered.name, arguments)
        parts = [getattr(part, "text", None) or f"<{part.type}>" for part in result.content]
        return ToolResult(
            ok=not result.is_error, content="\n".join(parts), reason="failed" if result.is_error else "ok"
        )

    return Tool(
        offered.name,
        offered.description or "",
        offered.input_schema,
        call,
        seconds=server.seconds + 1,  # the client's own bound comes first, and says more
        permission=server.permission,
    )


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())
