"""What an agent may call: a `Tool` is a name, a description, a JSON schema and an async call whose failures are data.

A tool is a typed function with `@tool`, a LangChain `BaseTool`, a plug-in of kind `tool`, or one that an MCP server
offers. A `Toolbox` holds a run's tools and refuses what is not allowed. The `python` tool runs in the sandbox, an MCP
server in its own process; every other tool runs in this process and is as trusted as the program that loads it.
"""

from __future__ import annotations

from autotelic.tools._builtin import calculator, python_tool
from autotelic.tools._documents import documents
from autotelic.tools._fuzz import fuzz
from autotelic.tools._load import ToolsConfig, load_tools, open_toolbox
from autotelic.tools._mcp import McpServer
from autotelic.tools._sql import sql
from autotelic.tools._tool import Permission, Tool, ToolReason, ToolResult, as_tool, tool
from autotelic.tools._toolbox import DEFAULT_ALLOW, Toolbox

__all__ = [
    "DEFAULT_ALLOW",
    "McpServer",
    "Permission",
    "Tool",
    "ToolReason",
    "ToolResult",
    "Toolbox",
    "ToolsConfig",
    "as_tool",
    "calculator",
    "documents",
    "fuzz",
    "load_tools",
    "open_toolbox",
    "python_tool",
    "sql",
    "tool",
]
