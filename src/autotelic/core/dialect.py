"""The form in which our own policies call tools: a turn is JSON, held to a schema by guided decoding.

`{"calls":[{"tool":NAME,"arguments":{...}}]}` calls, `{"answer":TEXT}` answers. The chat template tells the model so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from autotelic.core.words import ToolCall

__all__ = ["Said", "answering", "calling", "read_turn", "strict_json", "turn_schema"]


@dataclass(frozen=True)
class Said:
    """A turn as read: calls, or an answer, or neither where it has not the form."""

    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None


def calling(calls: Sequence[ToolCall]) -> str:
    """Return the turn that makes these calls."""
    made = [{"tool": call.name, "arguments": json.loads(call.arguments)} for call in calls]
    return json.dumps({"calls": made}, ensure_ascii=False, separators=(",", ":"))


def answering(answer: str) -> str:
    """Return the turn that gives this answer."""
    return json.dumps({"answer": answer}, ensure_ascii=False, separators=(",", ":"))


def read_turn(text: str) -> Said:
    """Read a turn; what has not the form is read as nothing."""
    try:
        said = strict_json(text)
        if isinstance(said, dict) and isinstance(said.get("answer"), str):
            return Said(answer=said["answer"])
        calls = (
            ToolCall(name=str(call["tool"]), arguments=json.dumps(call["arguments"], ensure_ascii=False))
            for call in said["calls"]
        )
        return Said(tuple(calls))
    except (ValueError, KeyError, TypeError, RecursionError):
        return Said()


def turn_schema(tools: Mapping[str, Mapping[str, Any]], calls: int, *, answer: bool) -> dict[str, Any]:
    """Return the JSON schema of a turn.

    Args:
        tools: schema of the arguments of each tool, by name.
        calls: most calls in the turn.
        answer: whether it may be an answer instead. Where nothing can be called it always may.
    """
    forms, definitions = [], dict[str, Any]()
    if calls > 0 and tools:
        one = [_closed(tool={"const": name}, arguments=_hoist(tools[name], definitions)) for name in tools]
        forms.append(_closed(calls={"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": calls}))
    if answer or not forms:
        forms.append(_closed(answer={"type": "string"}))
    return {"anyOf": forms} | ({"$defs": definitions} if definitions else {})


def strict_json(text: str) -> Any:
    """Parse what a model wrote: no name twice in one object, no NaN or Infinity, no half characters, not without end.

    Raises:
        ValueError: it is not JSON in this sense.
        RecursionError: it is nested too deeply.
    """
    if len(text) > _MAX_TEXT:
        raise ValueError(f"{len(text)} characters, at most {_MAX_TEXT} are allowed")
    found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    # Half a character, `"\ud800"`, is found here, and a number beyond all floats, `1e999`.
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    return found


_MAX_TEXT = 200_000


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"{twice!r} is given twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _closed(**properties: Any) -> dict[str, Any]:
    names = list(properties)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _hoist(schema: Mapping[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a tool's schema as a part of a larger one.

    What it refers to, wherever in it that stands, goes into the larger one's definitions under a name of its own; a
    reference to what is not in it takes anything. (Arguments are checked by the tool's own schema all the same.)
    """
    names: dict[str, str] = {}

    def refer(at: str) -> dict[str, Any]:
        if at not in names:
            try:
                target = _at(schema, at)
            except (LookupError, ValueError):
                return {}
            names[at] = str(len(definitions))
            definitions[names[at]] = True  # holds its place while what is below may refer back to it
            definitions[names[at]] = moved(target)
        return {"$ref": f"#/$defs/{names[at]}"}

    def moved(part: Any) -> Any:
        if isinstance(part, list):
            return [moved(one) for one in part]
        if not isinstance(part, Mapping):
            return part
        kept: dict[str, Any] = {}
        for key, value in part.items():
            if key == "$ref" and isinstance(value, str):
                kept |= refer(value)
            elif key in _OF_NAMES and isinstance(value, Mapping):
                kept[key] = {name: moved(one) for name, one in value.items()}
            elif key not in _OF_A_WHOLE:
                kept[key] = value if key in _OF_DATA else moved(value)
        return kept

    return moved(schema)


_OF_NAMES = {"properties", "patternProperties", "dependentSchemas"}
_OF_DATA = {"const", "enum", "default", "examples"}
_OF_A_WHOLE = {"$id", "$schema", "$defs", "definitions", "$anchor", "$dynamicAnchor", "$dynamicRef", "$vocabulary"}


def _at(schema: Any, reference: str) -> Any:
    """Return what a JSON pointer of the form `#/a/0` points to.

    Raises:
        LookupError: there is nothing.
        ValueError: it is no such pointer.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise ValueError(f"{reference} is no place in the schema")
    found = schema
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping | list):
            raise LookupError(reference)
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found
