"""A tool and its sources: a typed function, a LangChain tool, or anything that builds a `Tool` itself.

A call never raises for what a model did wrong or what the tool could not do: both come back as a `ToolResult` that the
model can read and the ledger can count. Arguments are taken as strictly as JSON allows: a doubled name, a number that
is none or an argument that the tool does not know is an error, never a guess.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints, overload

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model
from referencing import Registry
from referencing.exceptions import Unresolvable

from autotelic.core.dialect import strict_json
from autotelic.core.errors import UsageError
from autotelic.core.faults import faults
from autotelic.core.words import Frozen, sound
from autotelic.tools._running import in_loop, in_thread

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

__all__ = ["Permission", "Tool", "ToolReason", "ToolResult", "as_tool", "bad_arguments", "tool"]

Permission = Literal["pure", "reads", "writes", "network"]
"""What a call can do at worst: nothing but compute; read what is on this machine; change it; reach other machines.

Each class includes the ones before it. A tool that does not say counts as `network`.
"""

ToolReason = Literal["ok", "bad_arguments", "failed", "timeout", "refused", "unknown"]

_GRACE = 1.0
"""Seconds that a call which is out of time gets to clean up."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


class ToolResult(Frozen):
    """What a call came to."""

    ok: bool
    """Whether the tool did its work."""
    content: str
    """Text for the model: the result, or in one line what went wrong."""
    reason: ToolReason = "ok"
    """`ok`; `bad_arguments`: they do not fit the schema; `failed`: the tool raised; `timeout`; `refused`: it is not on
    the allow list; `unknown`: there is no such tool."""


@dataclass(frozen=True)
class Tool:
    """Something that an agent may call.

    `seconds` bounds a call: after that it is cancelled and no longer waited for. `max_chars` bounds what comes back.

    Raises:
        UsageError: the name or the schema cannot be used.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments, an object. Names that are not in it are refused."""
    function: Callable[[dict[str, Any]], Awaitable[Any]]
    """Takes arguments that fit the schema, gives the result. A `ToolResult` is passed on, anything else is rendered.
    Runs in the caller's event loop, so it must not block."""
    seconds: float = 30.0
    max_chars: int = 8000
    permission: Permission = "network"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"a tool cannot be called {self.name!r}. Use letters, digits, _ and -, at most 64, no digit first."
            )
        if self.permission not in get_args(Permission):
            raise UsageError(
                f"the tool {self.name!r} has the permission class {self.permission!r}. "
                f"Classes: {', '.join(get_args(Permission))}."
            )
        try:
            Draft202012Validator.check_schema(self.parameters)
        except SchemaError as error:
            raise UsageError(f"the schema of the tool {self.name!r} is no JSON schema: {error.message}.") from None

    async def __call__(self, arguments: Mapping[str, Any] | str) -> ToolResult:
        """Call the tool with arguments as a mapping or as JSON text."""
        try:
            given = strict_json(arguments if isinstance(arguments, str) else json.dumps(dict(arguments)))
        except (ValueError, TypeError, RecursionError) as error:
            return bad_arguments(f"the arguments are not JSON: {error}")
        if problem := self._problem(given):
            return bad_arguments(problem)
        # A task of its own, so that its errors, its time limits and its cancellation are never taken for ours.
        work = asyncio.create_task(self._work(given))
        try:
            await asyncio.wait({work}, timeout=self.seconds)
            late = not work.done()
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=_GRACE)
        if late:
            text = f"{self.name} gave no result within {self.seconds:g} s"
            return ToolResult(ok=False, content=text, reason="timeout")
        if work.cancelled():
            return ToolResult(ok=False, content=f"{self.name} was cancelled from within", reason="failed")
        return work.result()

    def openai(self) -> dict[str, Any]:
        """Return the tool in the form that OpenAI-compatible servers and chat templates take."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    @cached_property
    def _validator(self) -> Draft202012Validator:
        # A registry of its own: by default a reference to another address would be fetched from there.
        return Draft202012Validator(self.parameters, registry=Registry())

    def _problem(self, given: Any) -> str:
        if not isinstance(given, dict):
            return f"the arguments are a {type(given).__name__}, expected an object"
        known = self.parameters.get("properties", {})
        if "additionalProperties" not in self.parameters and (strange := sorted(given.keys() - known.keys())):
            return f"{strange[0]}: there is no such argument; there are: {', '.join(known) or 'none'}"
        try:
            errors = sorted(self._validator.iter_errors(given), key=lambda error: list(map(str, error.path)))
        except RecursionError:
            return "the arguments are nested too deeply"
        except Unresolvable as error:
            return f"the tool's schema refers to {error.ref}, which is not in it"
        return "; ".join(f"{'.'.join(map(str, e.path)) or 'arguments'}: {e.message[:200]}" for e in errors[:5])

    async def _work(self, given: dict[str, Any]) -> ToolResult:
        try:
            return self._bounded(await self.function(given))
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return ToolResult(ok=False, content=self._cut(text), reason="failed")

    def _bounded(self, result: Any) -> ToolResult:
        if isinstance(result, ToolResult):
            return result.model_copy(update={"content": self._cut(result.content)})
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
        return ToolResult(ok=True, content=self._cut(text))

    def _cut(self, text: str) -> str:
        left = len(text) - self.max_chars
        text = text if left <= 0 else f"{text[: self.max_chars]}... ({left} characters left out)"
        return sound(text)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    seconds: float = 30.0,
    max_chars: int = 8000,
    permission: Permission = "pure",
    here: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    seconds: float = 30.0,
    max_chars: int = 8000,
    permission: Permission = "pure",
    here: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a typed function, plain or async: its annotations are the schema, its docstring the description.

    A plain function runs in a thread of its own, an async one in an event loop that all such tools share, in a thread
    beside the caller's. So one that blocks holds up tools at most, and never a session or the program's end. A thread
    cannot be killed: it goes on when it is no longer waited for.

    Args:
        function: the function.
        name: what models call it; the function's name if not given.
        seconds: bound on a call.
        max_chars: bound on the result.
        permission: say more than `pure` if it reads or changes anything outside itself: a run allows by these classes.
        here: run an async function in the caller's event loop: for one that uses what belongs to that loop, and never
            blocks.

    Raises:
        UsageError: it has no docstring, an argument that a model could not pass, or one whose annotation has no schema.
    """

    def make(plain: Callable[..., Any]) -> Tool:
        called = name or plain.__name__
        model = _arguments(plain, called)

        async def call(arguments: dict[str, Any]) -> Any:
            try:
                # Strict, but as JSON: "2" is no number, while a date may come as text because JSON has no other way.
                checked = model.model_validate_json(json.dumps(arguments), strict=True)
            except ValidationError as error:
                return bad_arguments(faults(error, "arguments", most=5))
            run = partial(plain, **{field: getattr(checked, field) for field in model.model_fields})
            if not inspect.iscoroutinefunction(plain):
                return await in_thread(run)
            return await (run() if here else in_loop(run))

        description = inspect.getdoc(plain) or ""
        return Tool(called, description, model.model_json_schema(), call, seconds, max_chars, permission)

    return make if function is None else make(function)


def as_tool(thing: Any) -> Tool:
    """Return `thing` as a tool: a `Tool`, a LangChain `BaseTool` or a typed function.

    A LangChain tool says its permission class as `metadata={"permission": "pure"}`.

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


def bad_arguments(text: str) -> ToolResult:
    """Return the result of a call whose arguments do not fit."""
    return ToolResult(ok=False, content=sound(text[:1000]), reason="bad_arguments")


def _arguments(function: Callable[..., Any], name: str) -> type[BaseModel]:
    """Return the arguments of a function as a model."""
    if not inspect.getdoc(function):
        raise UsageError(f"the tool {name!r} has no docstring. Write one: it is what the model reads.")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise UsageError(f"an annotation of the tool {name!r} cannot be read: {error}. Import what it names.") from None
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise UsageError(f"the tool {name!r} takes {parameter}; a model can pass arguments by name only.")
        if parameter.name.startswith("_"):
            raise UsageError(
                f"the argument {parameter.name!r} of the tool {name!r} begins with an underscore, and no schema can "
                "hold it. Rename it."
            )
        if parameter.name not in hints:
            raise UsageError(f"the argument {parameter.name!r} of the tool {name!r} has no annotation. Add one.")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    try:
        model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        model.model_json_schema()
    except PydanticUserError as error:  # also of the schema's making: it says what it could not do in its first line
        what = error.message.splitlines()[0]
        raise UsageError(
            f"the arguments of the tool {name!r} have no JSON schema: {what}. Annotate them with types that JSON has, "
            "or with pydantic models."
        ) from None
    return model


def _from_langchain(thing: BaseTool) -> Tool:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    function = convert_to_openai_tool(thing)["function"]
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    permission = (thing.metadata or {}).get("permission", "network")

    async def call(arguments: dict[str, Any]) -> Any:
        if _is_async(thing):
            return await thing.ainvoke(arguments)
        # Its own way would be the event loop's executor: few threads, for which the program's end waits.
        return await in_thread(partial(thing.invoke, arguments))

    return Tool(thing.name, function.get("description", ""), parameters, call, permission=permission)


def _is_async(thing: BaseTool) -> bool:
    """Whether a LangChain tool has an async side of its own."""
    from langchain_core.tools import BaseTool, StructuredTool
    from langchain_core.tools import Tool as SimpleTool

    if isinstance(thing, SimpleTool | StructuredTool) and thing.coroutine is not None:
        return True
    return type(thing)._arun not in (BaseTool._arun, SimpleTool._arun, StructuredTool._arun)
