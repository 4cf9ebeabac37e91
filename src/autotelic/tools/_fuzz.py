"""Calls as a careless or hostile model would make them, drawn from a tool's own schema.

`autotelic tools test` and our tests throw them at tools: whatever comes, a call has to end in time, as a result that
says what it is; and arguments that do not fit must never reach the function.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from autotelic.tools._tool import Tool, ToolResult

__all__ = ["Call", "Finding", "fuzz", "make_calls"]

_TEXTS = (
    "", " ", "abc", "0", "-1", "1e999", "None", "\n\n", "\u0000", "é\u202e漢🙂", "'; DROP TABLE x; --",
    "../../etc/passwd",
    "</tool_call>", '"}],"answer":"x"}', "<|im_end|>\n<|im_start|>system\n", "{{ 7*7 }}", "$(id)", "%s%n", "a" * 5000,
)  # fmt: skip
_OF_TYPE: dict[str, tuple[Any, ...]] = {
    "string": _TEXTS,
    "integer": (0, 1, -1, 7, 2**31, -(2**63), 10**30),
    "number": (0.0, 0.5, -2.25, 1e300, 5e-324),
    "boolean": (True, False),
    "null": (None,),
    "array": ([], [1, "a", None], [[[[]]]]),
    "object": ({}, {"a": {"b": [1]}}),
}


class Call(NamedTuple):
    """One call to try."""

    kind: str
    """`fitting`, or what is wrong with it."""
    arguments: str
    """JSON text, or what a model may take for it."""


class Finding(NamedTuple):
    """A call that did not end as it must."""

    call: Call
    result: ToolResult | None
    problem: str


def make_calls(tool: Tool, count: int, seed: int = 0) -> Iterator[Call]:
    """Draw `count` calls; about a third fit the schema."""
    rng = random.Random(seed)
    kinds = list(_BREAKS)
    for _ in range(count):
        fitting = _draw(tool.parameters, tool.parameters, rng)
        kind = rng.choice(kinds) if rng.random() < 0.67 else "fitting"
        broken = _BREAKS[kind](fitting, tool.parameters, rng) if kind != "fitting" else None
        yield Call("fitting", json.dumps(fitting)) if broken is None else Call(kind, broken)


async def fuzz(tool: Tool, count: int, seed: int = 0, *, run_fitting: bool = True) -> list[Finding]:
    """Try `count` calls and return those that did not end as they must.

    Args:
        tool: the tool.
        count: calls.
        seed: which calls.
        run_fitting: whether calls that fit are made too. Leave it off where a call can change something.
    """
    findings = []
    for call in make_calls(tool, count, seed):
        if call.kind == "fitting" and not run_fitting:
            continue
        try:
            result = await tool(call.arguments)
        except Exception as error:
            findings.append(Finding(call, None, f"raised {type(error).__name__}: {error}"))
            continue
        if call.kind != "fitting" and result.ok:
            findings.append(Finding(call, result, "arguments that do not fit were taken"))
        elif call.kind == "fitting" and result.reason == "timeout":
            findings.append(Finding(call, result, "no result in time"))
        elif len(result.content) > tool.max_chars + 100:
            findings.append(Finding(call, result, f"{len(result.content)} characters came back"))
    return findings


def _draw(schema: Any, root: dict[str, Any], rng: random.Random, depth: int = 0) -> Any:
    """Draw a value that fits `schema`, as far as the usual keywords go."""
    if not isinstance(schema, dict) or depth > 6:
        return rng.choice(_TEXTS)
    if "$ref" in schema:
        return _draw(_resolve(schema["$ref"], root), root, rng, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _draw(rng.choice(schema[several]), root, rng, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema or depth == 0 else "string")
    match rng.choice(kind) if isinstance(kind, list) else kind:
        case "object":
            needed = set(schema.get("required", ()))
            properties = schema.get("properties", {})
            chosen = [name for name in properties if name in needed or rng.random() < 0.5]
            return {name: _draw(properties[name], root, rng, depth + 1) for name in chosen}
        case "array":
            least = schema.get("minItems", 0)
            size = rng.randint(least, min(schema.get("maxItems", least + 3), least + 3))
            return [_draw(schema.get("items", {}), root, rng, depth + 1) for _ in range(size)]
        case "integer" | "number" as name:
            low = schema.get("minimum", schema.get("exclusiveMinimum", -1000) + ("exclusiveMinimum" in schema))
            high = schema.get("maximum", schema.get("exclusiveMaximum", low + 2000) - ("exclusiveMaximum" in schema))
            return rng.randint(int(low), int(high)) if name == "integer" else rng.uniform(low, high)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    least, most = schema.get("minLength", 0), schema.get("maxLength", 10_000)
    return rng.choice(_TEXTS)[:most].ljust(least, "x")


def _resolve(reference: str, root: dict[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part, {}) if isinstance(found, dict) else {}
    return found


def _types(schema: Any, root: dict[str, Any]) -> set[str] | None:
    """Return the JSON types that `schema` takes, `None` if that cannot be said."""
    if not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        return _types(_resolve(schema["$ref"], root), root)
    if any(several in schema for several in ("anyOf", "oneOf")):
        parts = [_types(part, root) for part in schema.get("anyOf") or schema.get("oneOf") or []]
        known = [part for part in parts if part is not None]
        return set().union(*known) if len(known) == len(parts) else None
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return {"string"} if all(isinstance(value, str) for value in values) else None
    kind = schema.get("type")
    return None if kind is None else {kind} if isinstance(kind, str) else set(kind)


def _wrong_type(given: Any, schema: dict[str, Any], rng: random.Random) -> str | None:
    properties = schema.get("properties", {})
    for name in rng.sample(list(properties), len(properties)):
        taken = _types(properties[name], schema)
        if taken is None:
            continue
        taken |= {"integer"} if "number" in taken else set()
        other = rng.choice(
            [kind for kind in _OF_TYPE if kind not in taken and not (kind == "number" and "integer" in taken)]
        )
        return json.dumps({**given, name: rng.choice(_OF_TYPE[other])})
    return None


def _missing(given: Any, schema: dict[str, Any], rng: random.Random) -> str | None:
    needed = schema.get("required", ())
    if not needed:
        return None
    left_out = rng.choice(list(needed))
    return json.dumps({name: value for name, value in given.items() if name != left_out})


def _doubled(given: Any, _schema: dict[str, Any], rng: random.Random) -> str | None:
    if not given:
        return None
    name = rng.choice(list(given))
    return json.dumps(given)[:-1] + f", {json.dumps(name)}: {json.dumps(given[name])}}}"


def _torn(given: Any, _schema: dict[str, Any], rng: random.Random) -> str:
    text = json.dumps(given)
    return text[: rng.randrange(len(text))]


def _unknown(given: Any, schema: dict[str, Any], rng: random.Random) -> str | None:
    name = rng.choice(["__class__", "x" * 300, "", "self", "argümént"])
    return None if name in schema.get("properties", {}) else json.dumps({**given, name: 1})


_BREAKS: dict[str, Callable[[Any, dict[str, Any], random.Random], str | None]] = {
    "torn": _torn,
    "wrong_type": _wrong_type,
    "missing": _missing,
    "doubled_name": _doubled,
    "unknown_name": _unknown,
    "not_an_object": lambda _given, _schema, rng: rng.choice(["[]", "null", '"text"', "7", "true"]),
    "not_json": lambda given, _schema, rng: rng.choice(
        ["{'a': 1}", str(given) + ";", "```json\n{}\n```", "</tool_call>"]
    ),
    "no_number": lambda given, _schema, rng: json.dumps({**given, "n": 1})[:-2] + rng.choice(["NaN}", "Infinity}"]),
    "too_deep": lambda _given, _schema, _rng: '{"a":' * 50_000,
    "too_long": lambda given, _schema, _rng: json.dumps({**given, "pad": "x" * 300_000}),
    "half_a_character": lambda given, _schema, _rng: json.dumps({**given, "\ud800": 1}),
}
