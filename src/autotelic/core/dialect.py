"""The form in which our own policies call tools: a turn is JSON, held to a schema by guided decoding.

`{"calls":[{"tool":NAME,"arguments":{...}}]}` calls, `{"answer":TEXT}` answers. The chat template tells the model so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        one = [_closed(tool={"const": name}, arguments=_hoist(name, tools[name], definitions)) for name in tools]
        forms.append(_closed(calls={"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": calls}))
    if answer or not forms:
        forms.append(_closed(answer={"type": "string"}))
    return {"anyOf": forms} | ({"$defs": definitions} if definitions else {})


def strict_json(text: str) -> Any:
    """Parse what a model wrote: no name twice in one object, no NaN or Infinity, not without end.

    Raises:
        ValueError: it is not JSON in this sense.
        RecursionError: it is nested too deeply.
    """
    if len(text) > _MAX_TEXT:
        raise ValueError(f"{len(text)} characters, at most {_MAX_TEXT} are allowed")
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)


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


def _hoist(tool: str, schema: Mapping[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a tool's schema as a part of a larger one, which takes over its definitions under names of their own."""

    def moved(part: Any) -> Any:
        if isinstance(part, list):
            return [moved(one) for one in part]
        if not isinstance(part, Mapping):
            return part
        kept = {key: moved(value) for key, value in part.items() if key != "$defs"}
        if isinstance(at := part.get("$ref"), str):
            kept["$ref"] = at.replace("#/$defs/", f"#/$defs/{tool}.")
        return kept

    own = schema.get("$defs", {})
    definitions.update({f"{tool}.{name}": moved(definition) for name, definition in own.items()})
    return moved(schema)
