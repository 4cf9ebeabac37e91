"""Tools of MCP servers, over stdio or streamable HTTP, through the protocol's own client.

A server's word about its tools is not trusted: whatever hints it gives, its tools count as `network` unless the person
who named the server says what they can do.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from autotelic.core.errors import MissingPackage, UsageError
from autotelic.core.words import Frozen
from autotelic.tools._tool import Permission, Tool, ToolResult

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

__all__ = ["McpServer", "ServerLost", "mcp_tools"]

_log = logging.getLogger(__name__)


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
    """Names of the tools to take, as the server has them; all if not given."""
    prefix: str = ""
    """Put before the names of its tools, e.g. `books_`: for servers whose tools have the same names."""
    seconds: float = Field(default=30.0, gt=0)
    """Bound on connecting, which includes listing its tools, and on each call."""

    @model_validator(mode="after")
    def _one_way(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise ValueError("an MCP server needs either command or url")
        return self


@asynccontextmanager
async def mcp_tools(name: str, server: McpServer) -> AsyncIterator[list[Tool]]:
    """Connect to a server and give its tools, which can be called until the end.

    A server that was lost is connected to again when one of its tools is called.

    Raises:
        UsageError: it cannot be reached, or lacks a tool that was named.
        MissingPackage: `mcp` is not installed.
    """
    connection = _Connection(server)
    try:
        offered = {tool.name: tool for tool in await connection.open()}
    except MissingPackage:
        raise
    except Exception as error:
        where = server.url or " ".join(server.command)
        raise UsageError(
            f"the MCP server {name!r} ({where}) cannot be reached: {_innermost(error)}. Start or mend it."
        ) from error
    try:
        wanted = offered if server.tools is None else server.tools
        if missing := [tool for tool in wanted if tool not in offered]:
            raise UsageError(f"the MCP server {name!r} has no tool {missing[0]!r}; it has: {', '.join(offered)}.")
        yield [made for tool in wanted if (made := _tool(connection, offered[tool], server)) is not None]
    finally:
        await connection.close()


class _Connection:
    """A connection to a server. A client has to be closed by the task that opened it: so it has a task of its own."""

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._client: Client | None = None
        self._holder: asyncio.Task[None] | None = None
        self._end = asyncio.Event()
        self._mending = asyncio.Lock()

    async def open(self) -> list[Any]:
        """Connect, and return what the server offers, all within its time."""
        client, self._end = _client(self._server), asyncio.Event()
        listed: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._holder = asyncio.create_task(self._hold(client, listed, self._end))
        try:
            async with asyncio.timeout(self._server.seconds):
                offered = await listed
        except BaseException:
            self._holder.cancel()
            await self.close()
            raise
        self._client = client
        return offered

    async def close(self) -> None:
        """Disconnect."""
        self._client = None
        self._end.set()
        if self._holder is not None:
            await asyncio.wait({self._holder})

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool; if the server turns out to be lost, or to hang as a whole, connect again.

        Raises:
            ServerLost: that was so while the tool was called, and what the call did there is not known.
        """
        from mcp import MCPError
        from mcp.types import REQUEST_TIMEOUT

        client = self._client or await self._mended(None)
        try:
            return await client.call_tool(name, arguments)
        except Exception as error:
            if await self._answers(client):
                raise
            client = await self._mended(client)
            late = isinstance(error, MCPError) and error.code == REQUEST_TIMEOUT  # it would be late again
            if late or self._server.permission not in _REPEATABLE:
                raise ServerLost(
                    "the server was lost during the call, and it is not known what was done; it is there again"
                ) from error
        return await client.call_tool(name, arguments)

    async def _hold(self, client: Client, listed: asyncio.Future[list[Any]], end: asyncio.Event) -> None:
        try:
            async with client:
                offered = await _all_tools(client)
                if not listed.done():
                    listed.set_result(offered)
                await end.wait()
        except Exception as error:  # after the listing: that a lost server cannot be closed in good order
            if not listed.done():
                listed.set_exception(error)

    async def _mended(self, lost: Client | None) -> Client:
        async with self._mending:
            if self._client is lost:
                await self.close()
                await self.open()
            assert self._client is not None, "it was just opened"
            return self._client

    async def _answers(self, client: Client) -> bool:
        try:
            async with asyncio.timeout(_SIGN_SECONDS):
                await client.list_tools(cache_mode="bypass")
        except Exception:
            return False
        return True


class ServerLost(Exception):
    """A server went away while a tool of its was called."""


_REPEATABLE = ("pure", "reads")
_SIGN_SECONDS = 5.0
"""Within this time a server that is not lost lists its tools, also while it works."""
_MAX_PAGES = 1000


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
    for _ in range(_MAX_PAGES):
        if not page.next_cursor:
            return found
        page = await client.list_tools(cursor=page.next_cursor)
        found += page.tools
    raise ValueError(f"its list of tools has no end: more than {_MAX_PAGES} pages")


def _tool(connection: _Connection, offered: Any, server: McpServer) -> Tool | None:
    """Return a server's tool as ours; `None`, and a line in the log, if we cannot have it and nobody asked for it."""

    async def call(arguments: dict[str, Any]) -> ToolResult:
        result = await connection.call(offered.name, arguments)
        content = "\n".join(map(_text, result.content))
        if not result.content and result.structured_content is not None:
            content = json.dumps(result.structured_content, ensure_ascii=False)
        return ToolResult(ok=not result.is_error, content=content, reason="failed" if result.is_error else "ok")

    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{server.prefix}{offered.name}")  # the protocol allows `books.find`
    try:
        return Tool(
            name if name[:1].isalpha() else f"_{name}",
            offered.description or "",
            offered.input_schema,
            call,
            # The client's own bounds come first, on the call, the sign and connecting again.
            seconds=2 * server.seconds + _SIGN_SECONDS + 1,
            permission=server.permission,
        )
    except UsageError as error:
        if server.tools is not None:
            raise
        _log.warning("left out a tool of %s: %s", server.url or " ".join(server.command), error)
        return None


def _text(part: Any) -> str:
    """Return the words in a part of a result, an embedded text among them; of anything else, what it is."""
    found = getattr(part, "text", None)
    if found is None:
        found = getattr(getattr(part, "resource", None), "text", None)
    return f"<{part.type}>" if found is None else found


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())
