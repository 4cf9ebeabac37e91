"""What an agent may call: a `Tool` is a name, a description, a JSON schema and an async call whose failures are data.

A tool is a typed function with `@tool`, a LangChain `BaseTool`, or a plug-in of kind `tool`. The `python` tool runs in
the sandbox; every other tool runs in this process and is as trusted as the program that loads it.
"""

from __future__ import annotations

from autotelic.tools._builtin import calculator, python_tool
from autotelic.tools._load import load_tools
from autotelic.tools._tool import Tool, ToolReason, ToolResult, as_tool, tool

__all__ = ["Tool", "ToolReason", "ToolResult", "as_tool", "calculator", "load_tools", "python_tool", "tool"]
