"""One writer a thread: two that go on with the same thread at once would lose each other's updates without a word.

The lease is the system's and ends with its holder, also by kill -9. Beside an SQLite file it is a lock on one byte of
`FILE.lock`, in PostgreSQL an advisory lock.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from autotelic.core.errors import StoreError

if TYPE_CHECKING:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

__all__ = ["thread_lease"]

_POSTGRES = "langgraph.checkpoint.postgres.aio"
# Within a session an advisory lock may be taken again, so what this one holds is looked up first.
_TAKE = """
SELECT CASE WHEN EXISTS (
    SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid = 2
    AND classid = (%(a)s::bigint & 4294967295)::oid AND objid = (%(b)s::bigint & 4294967295)::oid
) THEN false ELSE pg_try_advisory_lock(%(a)s::int, %(b)s::int) END AS taken
"""


@asynccontextmanager
async def thread_lease(saver: BaseCheckpointSaver[Any], thread: str) -> AsyncIterator[None]:
    """Hold a thread until the end. Threads that are kept in memory are not held.

    Raises:
        StoreError: somebody holds it, or it cannot be held.
    """
    if isinstance(saver, AsyncSqliteSaver):
        async with saver.conn.execute("PRAGMA database_list") as cursor:
            (_, _, file), *_ = await cursor.fetchall()
        with _in_file(Path(f"{file}.lock"), thread):
            yield
    elif type(saver).__module__ == _POSTGRES:
        async with _in_postgres(saver, thread):
            yield
    else:
        yield


@contextmanager
def _in_file(path: Path, thread: str) -> Iterator[None]:
    at = int.from_bytes(sha256(thread.encode()).digest()[:7], "big")
    wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)  # the system's `struct flock`
    try:
        handle = path.open("ab")
    except OSError as error:
        raise StoreError(f"threads cannot be locked: {error}. Name another place with --threads.") from None
    with handle:
        try:
            # A lock of this opened file: one of the process would not keep its own tasks apart.
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            raise _taken(thread) from None
        except OSError as error:
            raise StoreError(f"{path} cannot be locked: {error}. Name another place with --threads.") from None
        yield


@asynccontextmanager
async def _in_postgres(saver: AsyncPostgresSaver, thread: str) -> AsyncIterator[None]:
    a, b = struct.unpack("ii", sha256(thread.encode()).digest()[:8])
    async with saver._cursor() as cursor:
        await cursor.execute(_TAKE, {"a": a, "b": b})
        row = await cursor.fetchone()
    if not (row and row["taken"]):
        raise _taken(thread)
    try:
        yield
    finally:
        async with saver._cursor() as cursor:
            await cursor.execute("SELECT pg_advisory_unlock(%s::int, %s::int)", (a, b))


def _taken(thread: str) -> StoreError:
    return StoreError(f"somebody else goes on with the thread {thread!r} just now. Wait, or name another thread.")
