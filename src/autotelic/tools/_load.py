"""Tools by name: a file, a `module:name`, or what is registered under the kind `tool`."""

from __future__ import annotations

from typing import Any

from autotelic.core.errors import UsageError
from autotelic.core.plugins import load_source
from autotelic.core.registry import lookup
from autotelic.sandbox import Sandbox
from autotelic.tools._builtin import python_tool
from autotelic.tools._tool import Tool, as_tool

__all__ = ["load_tools"]


def load_tools(spec: str, *, sandbox: Sandbox | None = None) -> list[Tool]:
    """Return the tools that `spec` names.

    Args:
        spec: `path/to/tools.py` (every tool in it), `package.module:name` (a tool or a list of tools), a registered
            name, or `python`.
        sandbox: where `python` runs.

    Raises:
        UsageError: nothing is found, it cannot be imported, it is no tool, or `python` has no sandbox.
    """
    if spec == "python":
        if sandbox is None:
            raise UsageError("the tool 'python' needs a sandbox. Open one with Sandbox.open() and pass it on.")
        return [python_tool(sandbox)]
    if spec.endswith(".py"):
        found = [as_tool(thing) for thing in vars(load_source(spec)).values() if _is_tool(thing)]
        if not found:
            raise UsageError(f"{spec} holds no tool. Mark a typed function in it with @autotelic.tool.")
    elif ":" in spec:
        thing = _attribute(spec)
        found = [as_tool(part) for part in (thing if isinstance(thing, list | tuple) else [thing])]
    else:
        found = [as_tool(lookup("tool", spec))]
    names = [tool.name for tool in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{spec} holds more than one tool called {', '.join(twice)}. Rename one.")
    return found


def _is_tool(thing: Any) -> bool:
    from langchain_core.tools import BaseTool

    return isinstance(thing, Tool | BaseTool)


def _attribute(spec: str) -> Any:
    module, _, name = spec.partition(":")
    try:
        return vars(load_source(module))[name]
    except KeyError:
        raise UsageError(f"{module} has no {name!r}. Check the part after the colon in {spec!r}.") from None
