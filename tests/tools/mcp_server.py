"""A small MCP server for tests: `python mcp_server.py` speaks over stdio, `python mcp_server.py PORT` over HTTP."""

from __future__ import annotations

import os
import sys
import time

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import EmbeddedResource, TextContent, TextResourceContents

server = MCPServer("house")


@server.tool()
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


@server.tool()
def fail(text: str) -> str:
    """Fail with a text."""
    raise ToolError(text)


@server.tool()
def wait(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "waited"


@server.tool()
async def freeze(seconds: float) -> str:
    """Hold up the whole server."""
    time.sleep(seconds)  # noqa: ASYNC251 - that is what it is for
    return "thawed"


@server.tool()
def die() -> str:
    """End the server's process."""
    os._exit(1)


@server.tool(name="books.find")
def find(title: str) -> str:
    """Find a book."""
    return f"{title} is on shelf 3"


@server.tool(structured_output=False)
def page() -> list[EmbeddedResource | TextContent]:
    """Read a page."""
    words = TextResourceContents(uri="file:///page", text="the page's words")
    return [EmbeddedResource(type="resource", resource=words), TextContent(type="text", text="")]


@server.tool()
def secrets() -> list[str]:
    """Name the environment variables that the server sees."""
    return sorted(os.environ)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
