"""A memory carried from one run to another: JSON lines, each an item and whether the solver saw it.

Ids and rounds are a run's own. What comes in gets an id that the run will never make, and is dated before its first
round, so that all rounds see it; what it rests on (trajectories, tasks, policy) stays as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import model_validator

from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen, content_id
from autotelic.memory.items import NOTES, RUN, MemoryItem, Record, Skill
from autotelic.memory.memory import KINDS, Added, Memory

__all__ = ["Held", "dump", "load", "read_dump"]

_CAME = "imported/"


class Held(Frozen):
    """An item of a memory and where it stands: a line of an export."""

    item: MemoryItem
    """The item."""
    out_of_sight: str | None = None
    """Why the solver does not see it; `None` if it does."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        """Take an item without a standing, as exports of older versions have it."""
        return {"item": data} if isinstance(data, dict) and "kind" in data else data


async def dump(memory: Memory) -> str:
    """Return everything that is remembered, records too, as JSON lines for `read_dump`."""
    rows = await memory.rows()
    found = await memory.all(*KINDS, "record")
    held = [Held(item=one, out_of_sight=rows[one.id].why or None) for one in found if one.id in rows]
    return "".join(f"{one.model_dump_json()}\n" for one in held)


def read_dump(text: str) -> list[Held]:
    """Read what `dump` has written, or plain items, one a line.

    Raises:
        ValidationError: a line is neither.
    """
    # A line's own text may hold what `splitlines` takes for the end of a line.
    return [Held.model_validate_json(line) for line in text.split("\n") if line.strip()]


async def load(memory: Memory, held: Sequence[Held], scope: str | None = None) -> Added:
    """Remember what another memory has held; what was out of sight there is so here.

    Args:
        memory: where it goes.
        held: of the other memory.
        scope: where it is to belong, `run`, `project/NAME` or `user/NAME`; by default where it did. Records follow only
            if they are notes: the namespaces of others are their agents' own.

    Raises:
        UsageError: the scope is none.
    """
    if scope is not None and not _is_scope(scope):
        raise UsageError(f"{scope!r} is no scope; expected run, project/NAME or user/NAME.")
    known = await memory.get([id_ for one in held for id_ in _may_be(one.item, scope)])
    items: dict[str, Any] = {}
    new_ids: dict[str, str] = {}
    for one in held:
        found = _moved(one.item, scope, known)
        known.setdefault(found.id, found)
        items.setdefault(found.id, found)
        new_ids[one.item.id] = found.id
    for id_, item in items.items():
        if isinstance(item, Skill) and item.parent in new_ids:
            items[id_] = item.model_copy(update={"parent": new_ids[item.parent]})
    why = {new_ids[one.item.id]: one.out_of_sight for one in held if one.out_of_sight}
    added = await memory.add([one for one in items.values() if not isinstance(one, Record)], out_of_sight=why)
    records = await memory.unknown([one for one in items.values() if isinstance(one, Record)])
    await memory.keep(records)
    return added.model_copy(update={"added": (*added.added, *(one.id for one in records))})


def _moved(item: Any, scope: str | None, taken: dict[str, Any]) -> Any:
    """Return an item as it is imported; what holds its id already has the same content, or it gets another."""
    placed = _placed(item, scope)
    first, second = _may_be(item, scope)
    id_ = second if first in taken and _same(taken[first]) != _same(placed) else first
    if isinstance(placed, Record):
        return placed if id_ == first else placed.placed(placed.namespace, _other_key(placed))
    return placed.model_copy(update={"id": id_, "round": 0})


def _may_be(item: Any, scope: str | None) -> tuple[str, str]:
    """Return the id that an item is imported under, and the one it gets where other content has that."""
    placed = _placed(item, scope)
    if isinstance(placed, Record):
        return placed.id, placed.placed(placed.namespace, _other_key(placed)).id
    first = _CAME + item.id.removeprefix(_CAME)
    return first, f"{first}/{content_id(_same(placed))}"


def _placed(item: Any, scope: str | None) -> Any:
    if not isinstance(item, Record):
        return item if scope is None else item.model_copy(update={"scope": scope})
    is_note = scope is not None and item.namespace[:1] == (NOTES,)
    return item.placed((NOTES, *scope.split("/")) if is_note and scope else item.namespace, item.key)


def _same(item: Any) -> tuple[Any, ...]:
    """What tells two items under one id apart."""
    return (item.value,) if isinstance(item, Record) else (item.content, item.scope)


def _other_key(record: Record) -> str:
    return f"{record.key}/{content_id(record.value)}"


def _is_scope(scope: str) -> bool:
    root, *rest = scope.split("/")
    return scope == RUN or (root in {"project", "user"} and bool(rest) and all(rest))
