"""Strategies by name and parameters: `self_consistency(n=8)`, `reflexion(tool_loop(), tries=3)`."""

from __future__ import annotations

import ast
import inspect
from math import prod
from typing import Any, cast, get_args, get_type_hints

from pydantic import ConfigDict, ValidationError, validate_call

from autotelic.core.errors import UsageError
from autotelic.core.faults import faults
from autotelic.core.registry import lookup
from autotelic.refinement.adapted import Adapting
from autotelic.refinement.work import ABREAST, IN_TURN, Strategy

__all__ = ["build_strategy", "consults_critic", "fan_out", "parameters", "uses"]


def build_strategy(text: str, *, suite: bool = False) -> Strategy:
    """Build what the text says: a registered strategy's name, in brackets its arguments, which may be strategies.

    Nothing of it is run as Python: arguments are names, calls and plain values.

    Args:
        text: e.g. `reflexion(best_of(n=3), tries=2)`.
        suite: whether a suite of tasks is to be answered, for which `adapted` may train.

    Raises:
        UsageError: there is no such strategy, it does not take these arguments, or `adapted` stands where it cannot.
    """
    built = _built(_parsed(text), text)
    if not suite:
        _refuse_adapting(built)
    return cast(Strategy, built)


def consults_critic(text: str) -> bool:
    """Say whether a strategy, or one within it, asks the critic.

    `self_refine` always does; any other by a parameter that may be `critic`, and is, in the text or by default.

    Raises:
        UsageError: see `build_strategy`.
    """
    build_strategy(text, suite=True)
    return _consults(_parsed(text))


def uses(text: str, name: str) -> bool:
    """Say whether a strategy, or one within it, is the one of this name.

    Raises:
        UsageError: see `build_strategy`.
    """
    build_strategy(text, suite=True)
    return _uses(_parsed(text), lookup("strategy", name))


def fan_out(text: str) -> int:
    """Say how many answers a strategy may have under way at once: of those within one another, the counts' product.

    Of a strategy the whole numbers count that it takes, given or by default: those marked `ABREAST` and, of those that
    are not marked `IN_TURN` either, the largest.

    Raises:
        UsageError: see `build_strategy`.
    """
    build_strategy(text, suite=True)
    return _fan_out(_parsed(text))


def parameters(maker: Any) -> str:
    """Return a strategy's parameters with their defaults, as one writes them."""
    given = inspect.signature(maker).parameters.values()
    return ", ".join(one.name if one.default in (None, one.empty) else f"{one.name}={one.default!r}" for one in given)


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _malformed(text) from error


def _uses(node: ast.expr, maker: Any) -> bool:
    found, _, inner = _taken_apart(node)
    return found is maker or any(_uses(one, maker) for one in inner)


def _consults(node: ast.expr) -> bool:
    maker, given, inner = _taken_apart(node)
    if maker is lookup("strategy", "self_refine") or any(map(_consults, inner)):
        return True
    hints = get_type_hints(maker)
    return any("critic" in get_args(hints.get(name)) and value == "critic" for name, value in given.items())


def _fan_out(node: ast.expr) -> int:
    maker, given, inner = _taken_apart(node)
    hints = get_type_hints(maker, include_extras=True)
    numbers = {name: number for name, number in given.items() if type(number) is int}
    abreast = [number for name, number in numbers.items() if _marked(hints.get(name), ABREAST)]
    unmarked = [number for name, number in numbers.items() if not _marked(hints.get(name), ABREAST, IN_TURN)]
    own = [*abreast, max([1, *unmarked])]
    return prod(max(1, number) for number in own) * max([1, *map(_fan_out, inner)])


def _marked(hint: Any, *marks: str) -> bool:
    return any(mark in get_args(one) for one in (hint, *get_args(hint)) for mark in marks)


def _taken_apart(node: ast.expr) -> tuple[Any, dict[str, Any], list[ast.expr]]:
    """Return who makes a strategy, its plain parameters with what was left out, and the strategies within it."""
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    maker = lookup("strategy", cast(ast.Name, call.func).id)
    if inspect.iscoroutinefunction(maker):
        return maker, {}, []
    takes = inspect.signature(maker)
    given = takes.bind(*call.args, **{word.arg: word.value for word in call.keywords if word.arg}).arguments
    said = [*call.args, *(word.value for word in call.keywords)]
    inner: list[ast.expr] = [value for value in said if isinstance(value, ast.Name | ast.Call)]
    plain = {name: ast.literal_eval(value) for name, value in given.items() if value in said and value not in inner}
    return maker, {name: one.default for name, one in takes.parameters.items()} | plain, inner


def _built(node: ast.expr, text: str) -> Any:
    call = ast.Call(func=node, args=[], keywords=[]) if isinstance(node, ast.Name) else node
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise _malformed(text)
    name = call.func.id
    maker = lookup("strategy", name)
    given = [_value(argument, text) for argument in call.args]
    named = {word.arg: _value(word.value, text) for word in call.keywords if word.arg}
    if inspect.iscoroutinefunction(maker):  # a strategy itself, not what makes one
        if given or named:
            raise UsageError(f"{name} cannot be built from {text!r}: it takes nothing.")
        return cast(Strategy, maker)
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(maker)
    try:
        return checked(*given, **named)
    except ValidationError as error:
        raise UsageError(
            f"{name} cannot be built from {text!r}: {faults(error, 'arguments')}. "
            f"It takes {parameters(maker) or 'nothing'}."
        ) from None


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name | ast.Call):
        return _refuse_adapting(_built(node, text))
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _malformed(text) from None


def _refuse_adapting(strategy: Any) -> Any:
    if isinstance(strategy, Adapting):
        raise UsageError(
            "adapted trains for a whole suite before it answers: it has to be the outermost strategy, in "
            "`autotelic eval --strategy`."
        )
    return strategy


def _malformed(text: str) -> UsageError:
    return UsageError(f"{text!r} is not a strategy. Write a name with arguments, e.g. self_consistency(direct, n=8).")
