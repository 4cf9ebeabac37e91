"""Tools by name: a file, a `module:name`, or what is registered under the kind `tool`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from autotelic.core.errors import UsageError
from autotelic.core.registry import lookup
from autotelic.core.words import content_id
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
        found = [as_tool(thing) for thing in vars(_file(Path(spec))).values() if _is_tool(thing)]
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


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}. Give the path of a Python file with tools.")
    name = f"autotelic_tools_{content_id(str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # holds for every name that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path} cannot be loaded: {type(error).__name__}: {error}. Mend the file.") from error
    return module


def _attribute(spec: str) -> Any:
    module, _, name = spec.partition(":")
    try:
        return vars(importlib.import_module(module))[name]
    except UsageError:
        raise
    except KeyError:
        raise UsageError(f"the module {module} has no {name!r}. Check the part after the colon in {spec!r}.") from None
    except Exception as error:
        raise UsageError(f"{spec} cannot be imported: {type(error).__name__}: {error}. Install or mend it.") from error
