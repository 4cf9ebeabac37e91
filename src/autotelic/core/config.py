"""From a YAML file and `key=value` overrides to a frozen config tree, with one clear line for each mistake.

The tree itself is assembled where it is used (`autotelic.graphs.config`); this module only knows how to read, override,
validate and write any pydantic model.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from autotelic.core.errors import UsageError
from autotelic.core.files import write_whole

__all__ = ["dump_config", "load_config", "parse_overrides"]

M = TypeVar("M", bound=BaseModel)


def load_config(kind: type[M], path: Path | None, overrides: Iterable[str] = ()) -> M:
    """Read `path` (or nothing), apply `key.sub=value` overrides, and build a `kind`.

    Raises:
        UsageError: the file is missing or not YAML, a key is unknown, or values cannot work together.
    """
    data = _read(path) if path is not None else {}
    for keys, value in parse_overrides(overrides):
        _set(data, keys, value)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        where = str(path) if path is not None else "the config"
        raise UsageError("\n".join(f"{where}: {line}" for line in _lines(error, kind))) from None


def parse_overrides(overrides: Iterable[str]) -> list[tuple[list[str], Any]]:
    """Split `a.b=3` into (["a", "b"], 3); values are YAML.

    Raises:
        UsageError: there is no `=`, or the value is not YAML.
    """
    parsed = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"the override {text!r} is not of the form key=value, for example solve.samples=8.")
        try:
            parsed.append((key.strip().split("."), yaml.safe_load(value)))
        except yaml.YAMLError as error:
            raise UsageError(f"the value in {text!r} is not YAML: {error}. Quote it.") from None
    return parsed


def dump_config(config: BaseModel, path: Path) -> None:
    """Write the resolved config as YAML, whole or not at all; a file that says so already is left as it is."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_bytes() != text.encode():
        write_whole(path, text)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"there is no config file {path}. Give the path of a YAML file, e.g. configs/quickstart.yaml."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}.") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds a {type(data).__name__}, expected keys and values.")
    return data


def _set(data: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for key in parents:
        child = data.setdefault(key, {})
        if not isinstance(child, dict):
            raise UsageError(f"{'.'.join(keys)} cannot be set: {key} is {child!r}, not a group of keys.")
        data = child
    data[last] = value


def _lines(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {place!r}.{_suggest(kind, item['loc'])}")
        elif item["type"] == "value_error":
            lines.append((f"{place}: " if place else "") + str(item["ctx"]["error"]))
        else:
            lines.append(f"{place} = {item['input']!r}: {item['msg']}.")
    return lines


def _suggest(kind: type[BaseModel], place: tuple[int | str, ...]) -> str:
    fields: Any = kind
    for part in place[:-1]:
        info = getattr(fields, "model_fields", {}).get(part)
        fields = info.annotation if info else None
    known = list(getattr(fields, "model_fields", {}))
    near = difflib.get_close_matches(str(place[-1]), known, n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known keys: {', '.join(known)}." if known else ""
