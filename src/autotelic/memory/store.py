"""LangGraph's `BaseStore` over a memory, so that any LangGraph agent can keep and find things in it.

What an agent puts is a record of its own: any JSON object under a namespace and a key, searched by meaning where its
writer wants it indexed. What the memory itself holds can be read and searched under `("memory", KIND, *SCOPE)`, and not
written: experience enters by the memory's own gate. There is no time to live.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import unquote

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    get_text_at_path,
    tokenize_path,
    validate_op_namespace,
)

from autotelic.core.errors import UsageError
from autotelic.memory._truth import Where
from autotelic.memory.items import Kind, Record, record_id, record_scope
from autotelic.memory.memory import KINDS, Memory

__all__ = ["MemoryStore"]

_OURS = "memory"
_MOST = 10**9


class MemoryStore(BaseStore):
    """A LangGraph store over an open memory. Make it where the event loop runs that the memory was opened in.

    Calls without `await` (`put`, `search` ...) come from other threads, as LangGraph's own for plain functions do.

    Args:
        memory: where things are kept; it stays the caller's.
        fields: paths of a value's texts that are searched by meaning, if a put names none; `$` is the whole value.
    """

    supports_ttl = False

    def __init__(self, memory: Memory, *, fields: tuple[str, ...] = ("$",)) -> None:
        self._memory = memory
        self._fields = fields
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations, from another thread than the event loop's.

        Raises:
            UsageError: it is the event loop's own thread, which would wait for itself. Use the calls with `await`.
        """
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            raise UsageError("this store was called without await in its own event loop. Use aget, aput, asearch ...")
        return asyncio.run_coroutine_threadsafe(self._batch(list(ops)), self._loop).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations. What is read is read before what is put is written, as in LangGraph's own stores.

        Raises:
            UsageError: something is to be written into the part that shows the memory's own items.
        """
        if asyncio.get_running_loop() is self._loop:
            return await self._batch(list(ops))
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._batch(list(ops)), self._loop))

    async def _batch(self, ops: list[Op]) -> list[Result]:
        for op in ops:
            validate_op_namespace(op)
        results: list[Result] = []
        puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        for op in ops:
            match op:
                case GetOp():
                    results.append(await self._get(op))
                case SearchOp():
                    results.append(await self._search(op))
                case ListNamespacesOp():
                    results.append(await self._namespaces(op))
                case PutOp():
                    if op.namespace[0] == _OURS:
                        raise UsageError(
                            f"{op.namespace} shows what the memory has learned and cannot be written. "
                            f"Use a namespace that does not begin with {_OURS!r}."
                        )
                    puts[op.namespace, op.key] = op
                    results.append(None)
        if puts:
            await self._put(list(puts.values()))
        return results

    async def _get(self, op: GetOp) -> Item | None:
        id_ = op.key if op.namespace[:1] == (_OURS,) else record_id(op.namespace, op.key)
        found = (await self._memory.get([id_])).get(id_)
        if found is None:
            return None
        item = _shown(found)
        return Item(**item) if item["namespace"] == op.namespace else None

    async def _put(self, ops: list[PutOp]) -> None:
        async with self._writing:
            known = await self._memory.get([record_id(op.namespace, op.key) for op in ops])
            gone = [id_ for op in ops if op.value is None and (id_ := record_id(op.namespace, op.key)) in known]
            records = [self._record(op, op.value, known) for op in ops if op.value is not None]
            await self._memory.keep(records, delete=gone)

    def _record(self, op: PutOp, value: Mapping[str, Any], known: Mapping[str, Any]) -> Record:
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{op.namespace} {op.key!r}: the value is not JSON: {error}. Put plain data.") from None
        paths = [] if op.index is False else self._fields if op.index is None else op.index
        texts = [
            text
            for path in paths
            for text in get_text_at_path(dict(value), "$" if path == "$" else tokenize_path(path))
        ]
        before = known.get(record_id(op.namespace, op.key))
        return Record.of(op.namespace, op.key, value, "\n".join(texts), before.created_at if before else "")

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.offset < 0 or op.limit < 1:
            return []
        n = None if op.filter else min(op.offset + op.limit, _MOST)
        found: list[tuple[float | None, Any]] = []
        for where in _places(op.namespace_prefix):
            found += await self._memory.scan(where, op.query, n)
        if op.query:
            found.sort(key=lambda pair: math.inf if pair[0] is None else -pair[0])
        items = [(score, _shown(one)) for score, one in found]
        kept = [(score, item) for score, item in items if _passes(item["value"], op.filter)]
        return [SearchItem(**item, score=score) for score, item in kept[op.offset : op.offset + op.limit]]

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        names = {_namespace(kind, scope) for kind in get_args(Kind) for scope in await self._memory.scopes(kind)}
        met = {n for n in names if all(_matches(condition, n) for condition in op.match_conditions or ())}
        cut = {n[: op.max_depth] for n in met} if op.max_depth is not None else met
        return sorted(cut)[op.offset : op.offset + op.limit]


def _namespace(kind: Kind, scope: str) -> tuple[str, ...]:
    if kind == "record":
        return tuple(unquote(label) for label in scope.split("/")[1:])
    return (_OURS, kind, *scope.split("/"))


def _shown(one: Any) -> dict[str, Any]:
    """An item of any kind as LangGraph's items are made."""
    if isinstance(one, Record):
        times = {
            "created_at": datetime.fromisoformat(one.created_at),
            "updated_at": datetime.fromisoformat(one.updated_at),
        }
        return {"namespace": one.namespace, "key": one.key, "value": one.value, **times}
    never = datetime.fromtimestamp(0, UTC)  # our items are dated by rounds
    value = json.loads(one.model_dump_json())
    return {
        "namespace": _namespace(one.kind, one.scope),
        "key": one.id,
        "value": value,
        "created_at": never,
        "updated_at": never,
    }


def _places(prefix: tuple[str, ...]) -> list[Where]:
    """What may lie under a prefix: records, our own items, or (for an empty prefix) both."""
    ours = prefix[:1] == (_OURS,)
    places = [] if ours else [Where(("record",), (record_scope(prefix),))]
    if ours or not prefix:
        kinds = tuple(kind for kind in KINDS if prefix[1:2] in {(), (kind,)})
        scopes = ("/".join(prefix[2:]),) if prefix[2:] else None
        places += [Where(kinds, scopes)] if kinds else []
    return places


def _passes(value: Mapping[str, Any], conditions: Mapping[str, Any] | None) -> bool:
    return all(_compare(value.get(name), wanted) for name, wanted in (conditions or {}).items())


def _compare(value: Any, wanted: Any) -> bool:
    """Compare as LangGraph's in-memory store does: `$eq`, `$ne`, `$gt` ..., or an equal value, looked for in depth."""
    if isinstance(wanted, Mapping):
        if any(str(key).startswith("$") for key in wanted):
            return all(_operate(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, Mapping) and all(_compare(value.get(k), v) for k, v in wanted.items())
    if isinstance(wanted, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(wanted)
        return same and all(_compare(v, w) for v, w in zip(value, wanted, strict=True))
    return bool(value == wanted)


def _operate(value: Any, name: str, operand: Any) -> bool:
    match name:
        case "$eq":
            return bool(value == operand)
        case "$ne":
            return bool(value != operand)
        case "$gt":
            return float(value) > float(operand)
        case "$gte":
            return float(value) >= float(operand)
        case "$lt":
            return float(value) < float(operand)
        case "$lte":
            return float(value) <= float(operand)
    raise ValueError(f"{name} is no operator; there are $eq, $ne, $gt, $gte, $lt, $lte")


def _matches(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    path = condition.path
    if len(path) > len(namespace):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return all(wanted in {"*", label} for wanted, label in zip(path, part, strict=True))
