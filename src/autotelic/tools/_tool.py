"""A tool and its three sources: a typed function, a LangChain tool, or anything that builds a `Tool` itself.

A call never raises for what a model did wrong or what the tool could not do: both come back as a `ToolResult` that the
model can read and the ledger can count.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints, overload

from pydantic import ConfigDict, ValidationError, create_model

from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen

__all__ = ["Tool", "ToolReason", "ToolResult", "as_tool", "tool"]

ToolReason = Literal["ok", "bad_arguments", "failed", "timeout"]


class ToolResult(Frozen):
    """What a call came to."""

    ok: bool
    """Whether the tool did its work."""
    content: str
    """Text for the model: the result, or in one line what went wrong."""
    reason: ToolReason = "ok"
    """`ok`; `bad_arguments`: they do not fit the schema; `failed`: the tool raised; `timeout`."""


@dataclass(frozen=True)
class Tool:
    """Something that an agent may call.

    `seconds` bounds a call (a plain function runs in a thread, which cannot be killed: after the time it is no longer
    waited for); `max_chars` bounds what comes back.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments, an object."""
    function: Callable[[dict[str, Any]], Awaitable[Any]]
    """Takes the arguments, checks them, gives the result. A `ToolResult` is passed on, anything else is rendered."""
    seconds: float = 30.0
    max_chars: int = 8000

    async def __call__(self, arguments: Mapping[str, Any] | str) -> ToolResult:
        """Call the tool with arguments as a mapping or as JSON text."""
        try:
            given = json.loads(arguments) if isinstance(arguments, str) else dict(arguments)
        except (ValueError, RecursionError) as error:
            return _bad(f"the arguments are not JSON: {error}")
        if not isinstance(given, dict):
            return _bad(f"the arguments are a {type(given).__name__}, expected an object")
        try:
            async with asyncio.timeout(self.seconds):
                return self._bounded(await self.function(given))
        except TimeoutError:
            return ToolResult(
                ok=False, content=f"{self.name} gave no result within {self.seconds:g} s", reason="timeout"
            )
        except ValidationError as error:
            return _bad(_explain(error))
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return ToolResult(ok=False, content=self._cut(text), reason="failed")

    def openai(self) -> dict[str, Any]:
        """Return the tool in the form that OpenAI-compatible servers and chat templates take."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def _bounded(self, result: Any) -> ToolResult:
        if isinstance(result, ToolResult):
            return result.model_copy(update={"content": self._cut(result.content)})
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
        return ToolResult(ok=True, content=self._cut(text))

    def _cut(self, text: str) -> str:
        left = len(text) - self.max_chars
        return text if left <= 0 else f"{text[: self.max_chars]}... ({left} characters left out)"


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *, name: str | None = None, seconds: float = 30.0, max_chars: int = 8000
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    seconds: float = 30.0,
    max_chars: int = 8000,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a typed function, plain or async: its annotations are the schema, its docstring the description.

    Raises:
        UsageError: it has no docstring, an argument without annotation, or `*args`, `**kwargs` or positional-only ones.
    """

    def make(plain: Callable[..., Any]) -> Tool:
        return _from_function(plain, name or plain.__name__, seconds, max_chars)

    return make if function is None else make(function)


def as_tool(thing: Any) -> Tool:
    """Return `thing` as a tool: a `Tool`, a LangChain `BaseTool` or a typed function.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(thing, Tool):
        return thing
    from langchain_core.tools import BaseTool

    if isinstance(thing, BaseTool):
        return _from_langchain(thing)
    if inspect.isfunction(thing):
        return tool(thing)
    raise UsageError(
        f"{thing!r} is not a tool. Expected a function with @autotelic.tool, a Tool, or a LangChain BaseTool."
    )


def _from_function(function: Callable[..., Any], name: str, seconds: float, max_chars: int) -> Tool:
    description = inspect.getdoc(function)
    if not description:
        raise UsageError(f"the tool {name!r} has no docstring. Write one: it is what the model reads.")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise UsageError(f"the tool {name!r} takes {parameter}; a model can pass arguments by name only.")
        if parameter.name not in hints:
            raise UsageError(f"the argument {parameter.name!r} of the tool {name!r} has no annotation. Add one.")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)

    async def call(arguments: dict[str, Any]) -> Any:
        checked = model.model_validate(arguments)
        values = {field: getattr(checked, field) for field in fields}
        if inspect.iscoroutinefunction(function):
            return await function(**values)
        return await asyncio.to_thread(function, **values)

    schema = model.model_json_schema()
    return Tool(name, description, schema, call, seconds, max_chars)


def _from_langchain(thing: Any) -> Tool:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    function = convert_to_openai_tool(thing)["function"]
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    return Tool(thing.name, function.get("description", ""), parameters, thing.ainvoke)


def _bad(text: str) -> ToolResult:
    return ToolResult(ok=False, content=text[:1000], reason="bad_arguments")


def _explain(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()[:5])
