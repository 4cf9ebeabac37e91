"""Values without trust: the candidate's process writes tagged JSON, and this process, where no candidate ever ran,
turns it into the one canonical text that equality is decided by.

Nothing here evaluates, unpickles or calls anything a candidate chose. A forged claim can only be a different plain
value, which the candidate could have returned anyway.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from autotelic.sandbox._zygote import encode, literals

__all__ = ["BadClaim", "argument_error", "canonical", "decode", "parse"]


class BadClaim(ValueError):
    """A claim is not what the harness writes."""


def canonical(text: str, limit: int = 65_536) -> str | None:
    """Return the canonical text of a Python literal, or `None` if `text` is not one (or is over `limit` characters).

    Two literals are equal exactly when their canonical texts are: `{2, 1}` and `{1, 2}` agree, `1` and `1.0` do not.
    """
    if len(text) > limit:
        return None
    try:
        values = literals(text)
        return decode(json.loads(encode(values[0], limit))) if len(values) == 1 else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError):
        return None


def argument_error(text: str, limit: int) -> str:
    """Return why `text` is not a list of literal arguments, or an empty string if it is."""
    if len(text) > limit:
        return f"the arguments have {len(text)} characters, at most {limit} are allowed"
    try:
        literals(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        return f"the arguments are not literals ({type(error).__name__}): {text[:80]!r}"
    return ""


def parse(claim: bytes) -> dict[str, Any]:
    """Return the claim as a dictionary.

    Raises:
        BadClaim: it is not the JSON object that the harness writes.
    """
    try:
        data = json.loads(claim.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadClaim(f"not JSON: {type(error).__name__}") from None
    if not isinstance(data, dict) or data.get("status") not in {"ok", "error", "memory", "output"}:
        raise BadClaim("not a claim")
    return data


def decode(data: Any) -> str:
    """Return the canonical text of a tagged value.

    Raises:
        BadClaim: it holds something that the harness never writes.
    """
    if data is None or isinstance(data, bool | int):
        return repr(data)
    if isinstance(data, float):
        if not math.isfinite(data):
            raise BadClaim("a number is out of range")
        return repr(data)
    if isinstance(data, str):
        return repr(data)
    if isinstance(data, dict) and len(data) == 1:
        ((tag, body),) = data.items()
        if tag in _decoders and (isinstance(body, list) or tag == "b"):
            return _decoders[tag](body)
    raise BadClaim("a value has an unknown form")


def _no_constant(name: str) -> Any:
    raise BadClaim(f"{name} is not a finite number")


def _tuple(body: list[Any]) -> str:
    inner = ", ".join(map(decode, body))
    return f"({inner},)" if len(body) == 1 else f"({inner})"


def _list(body: list[Any]) -> str:
    return f"[{', '.join(map(decode, body))}]"


def _set(body: list[Any]) -> str:
    return "{" + ", ".join(sorted(set(map(decode, body)))) + "}" if body else "set()"


def _frozenset(body: list[Any]) -> str:
    return f"frozenset({_set(body)})" if body else "frozenset()"


def _dict(body: list[Any]) -> str:
    pairs: dict[str, str] = {}
    for pair in body:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadClaim("a dictionary has an item that is no pair")
        pairs[decode(pair[0])] = decode(pair[1])
    return "{" + ", ".join(f"{key}: {pairs[key]}" for key in sorted(pairs)) + "}"


def _bytes(body: Any) -> str:
    if not isinstance(body, str):
        raise BadClaim("bytes are not hexadecimal")
    try:
        return repr(bytes.fromhex(body))
    except ValueError:
        raise BadClaim("bytes are not hexadecimal") from None


def _complex(body: list[Any]) -> str:
    if len(body) != 2 or not all(type(part) is float and math.isfinite(part) for part in body):
        raise BadClaim("a complex number is not two finite numbers")
    return repr(complex(body[0], body[1]))


_decoders: dict[str, Callable[[Any], str]] = {
    "t": _tuple,
    "l": _list,
    "s": _set,
    "f": _frozenset,
    "d": _dict,
    "b": _bytes,
    "c": _complex,
}
