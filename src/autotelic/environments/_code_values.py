"""Python values as data: read from text without running anything, compared by value and type, varied at random.

Results of model-written code arrive as text. Nothing here calls `eval`; what is not a literal is not a value.
"""

from __future__ import annotations

import ast
import math
from random import Random
from typing import Any

__all__ = ["MAX_VALUE_CHARACTERS", "arguments_text", "canonical", "read_arguments", "read_value", "vary"]

MAX_VALUE_CHARACTERS = 300
"""Longest text of one value or argument list: more than that is no exercise."""
_LETTERS = "abcdehilmnorstu"


def read_value(text: str) -> Any:
    """Read one literal.

    Raises:
        ValueError: the text is too long or is not a literal of numbers, text, truth values, `None` and containers.
    """
    if len(text) > MAX_VALUE_CHARACTERS:
        raise ValueError(f"{len(text)} characters, at most {MAX_VALUE_CHARACTERS} are read")
    text.encode()  # lone surrogates cannot travel
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a Python literal: {text[:60]!r}") from error
    canonical(value)
    return value


def read_arguments(text: str) -> tuple[Any, ...]:
    """Read what stands between the parentheses of a call: `3, [1, 2]` gives `(3, [1, 2])`.

    Raises:
        ValueError: as `read_value`, or there is no argument.
    """
    values = read_value(f"[{text}]")
    if not isinstance(values, list) or not values:
        raise ValueError(f"not an argument list: {text[:60]!r}")
    return tuple(values)


def arguments_text(arguments: tuple[Any, ...]) -> str:
    """Write arguments as they stand between the parentheses of a call."""
    return ", ".join(canonical(a) for a in arguments)


def canonical(value: Any) -> str:
    """Write a value so that two texts are equal exactly when type and value are, at every depth.

    Raises:
        ValueError: the value is not finite, or of a type that has no literal.
    """
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(canonical(v) for v in value) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(canonical(v) for v in value) + (",)" if len(value) == 1 else ")")
    if isinstance(value, set):
        return "{" + ", ".join(sorted(canonical(v) for v in value)) + "}" if value else "set()"
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{canonical(k)}: {canonical(v)}" for k, v in value.items())) + "}"
    raise ValueError(f"a {type(value).__name__} is not a value that can be compared")


def vary(arguments: tuple[Any, ...], rng: Random) -> tuple[Any, ...]:
    """Draw other arguments of the same types and about the same size."""
    return tuple(_varied(a, rng) for a in arguments)


def _varied(value: Any, rng: Random) -> Any:
    if isinstance(value, bool):
        return rng.random() < 0.5
    if isinstance(value, int):
        bound = max(20, 2 * abs(value))
        return rng.randint(0 if value > 0 else -bound, bound)
    if isinstance(value, float):
        return round(rng.uniform(0.0 if value > 0 else -10.0, max(10.0, 2 * abs(value))), 1)
    if isinstance(value, str):
        letters = sorted(set(value)) + list(_LETTERS)
        return "".join(rng.choice(letters) for _ in range(max(1, len(value) + rng.randint(-1, 2))))
    if isinstance(value, dict):
        return {k: _varied(v, rng) for k, v in value.items()}
    if isinstance(value, list | tuple | set) and value:
        items = sorted(value, key=canonical) if isinstance(value, set) else list(value)
        drawn = [_varied(rng.choice(items), rng) for _ in range(max(1, len(items) + rng.randint(-1, 1)))]
        return type(value)(drawn)
    return value
