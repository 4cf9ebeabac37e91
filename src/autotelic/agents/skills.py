"""A skill as a tool: a function that the model wrote, called in the sandbox and nowhere else.

Its arguments go in beside the source as literals, never inside it, and its result comes out as the text of a literal.
Here the code is only read, as a syntax tree; nothing of it is ever run in this process.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from autotelic.core.errors import UsageError
from autotelic.memory.items import Skill
from autotelic.sandbox import Outcome, Sandbox
from autotelic.tools import Tool, ToolResult

__all__ = ["Function", "Unfit", "as_json", "as_literals", "read_function", "skill_tool"]

_MAX_CODE = 4000


class Unfit(Exception):
    """What the model wrote cannot be a skill. `reason` is for machines, the message for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Function(NamedTuple):
    """What can be read off a function without running it."""

    parameters: tuple[str, ...]
    """Names, in the order of the signature."""
    docstring: str
    """What it says of itself, empty if it says nothing."""


def read_function(code: str, name: str) -> Function:
    """Find a function at the top level of a program.

    Raises:
        Unfit: with reason `too_long`, `syntax_error`, `no_function` or `schema_mismatch` (arguments that cannot be
            given one by one).
    """
    if len(code) > _MAX_CODE:
        raise Unfit("too_long", f"the code has {len(code)} characters, at most {_MAX_CODE} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as an invalid escape, which is not our code's
            tree = ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Unfit("syntax_error", f"{type(error).__name__}: {error}") from None
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not found:
        raise Unfit("no_function", f"the code defines no function {name!r}")
    given = found[-1].args
    if given.vararg or given.kwarg or given.kwonlyargs:
        raise Unfit("schema_mismatch", f"{name} takes *args, **kwargs or arguments by name only")
    names = tuple(argument.arg for argument in (*given.posonlyargs, *given.args))
    return Function(names, ast.get_docstring(found[-1]) or "")


def skill_tool(skill: Skill, sandbox: Sandbox) -> Tool:
    """Return the tool that calls a skill in `sandbox`: it can do nothing but compute.

    Raises:
        UsageError: the code does not define the function that the schema describes.
    """
    try:
        order = read_function(skill.code, skill.name).parameters
    except Unfit as error:
        raise UsageError(f"the skill {skill.id} cannot be called: {error}. Remove it.") from None
    described = skill.parameters.get("properties", {}).keys(), set(skill.parameters.get("required", ()))
    if any(names != set(order) for names in described):
        raise UsageError(
            f"the skill {skill.id} cannot be called: {skill.name} takes {', '.join(order) or 'nothing'}, and its "
            "schema describes or requires something else. Remove it."
        )

    async def call(arguments: dict[str, Any]) -> ToolResult:
        outcome = await sandbox.call(skill.code, skill.name, as_literals(order, arguments))
        if outcome.status == "ok":
            return ToolResult(ok=True, content=_shown(outcome))
        return ToolResult(
            ok=False, content=outcome.error, reason="timeout" if outcome.status == "timeout" else "failed"
        )

    # The sandbox keeps the time; this only has to outlast it and the wait for a free worker.
    seconds = sandbox.limits.seconds * 10 + 30
    return Tool(skill.name, skill.description, skill.parameters, call, seconds=seconds, permission="pure")


def as_literals(order: Sequence[str], arguments: Mapping[str, Any]) -> str:
    """Return JSON arguments as literals in the order of a signature, as the sandbox takes them."""
    return ", ".join(repr(arguments[name]) for name in order)


def as_json(value: Any) -> str:
    """Return plain data as JSON text: what is equal in it is equal to whoever reads it. A tuple is a list there.

    Raises:
        ValueError, TypeError, RecursionError: it is not JSON.
    """
    return json.dumps(_keyed(value), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _keyed(value: Any) -> Any:
    """Refuse keys that are no text: JSON would quietly make text of them."""
    if isinstance(value, dict):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {strange[0]!r} is no text")
        return {key: _keyed(part) for key, part in value.items()}
    return [_keyed(part) for part in value] if isinstance(value, list | tuple) else value


def _shown(outcome: Outcome) -> str:
    """The result as the model reads it: text as it is, else as JSON, else (a set, say) as Python writes it."""
    text = str(outcome.value)
    try:
        value = ast.literal_eval(text)
        return value if isinstance(value, str) else as_json(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
