"""Read-only SQL on one local SQLite file.

Held shut three ways: the file is opened read-only, SQLite is told to run queries only, and an authorizer lets nothing
pass but reading tables and calling harmless functions. Time, rows and the size of a cell are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from autotelic.core.errors import ModelRetry, UsageError
from autotelic.core.registry import register
from autotelic.tools._tool import Tool, tool

__all__ = ["sql"]

_SECONDS, _ROWS, _CELL = 5.0, 100, 500
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION}
_FORBIDDEN = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "randomblob", "zeroblob"}


@register("tool", "sql")
def sql(file: str) -> Tool:
    """Return a tool that queries the SQLite database in `file`.

    Raises:
        UsageError: it is not there or is no SQLite database.
    """
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {file} to query. Name an SQLite database: sql=PATH.")
    try:
        with contextlib.closing(_open(path)) as db:
            tables = [row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{file} cannot be read as an SQLite database: {error}.") from None

    async def query(statement: str) -> str:
        return await asyncio.to_thread(_query, path, statement)

    query.__doc__ = (
        f"Run one SELECT on an SQLite database. Returns at most {_ROWS} rows as JSON lists, names first. "
        f"Tables: {' '.join('; '.join(tables).split())[:2000]}"
    )
    return tool(name="sql", seconds=_SECONDS + 5, permission="reads")(query)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2.0)
    db.execute("PRAGMA query_only = ON")
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000_000)
    db.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 20_000)
    return db


def _query(path: Path, statement: str) -> str:
    with contextlib.closing(_open(path)) as db:
        db.set_authorizer(_authorize)
        deadline = time.monotonic() + _SECONDS
        db.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        try:
            cursor = db.execute(statement)
            rows = cursor.fetchmany(_ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise ModelRetry(f"{error}. One SELECT on this database is allowed, for {_SECONDS:g} s.") from None
    if cursor.description is None:
        raise ModelRetry("that was no query. One SELECT on this database is allowed.")
    lines = [json.dumps([_shown(cell) for cell in row], ensure_ascii=False) for row in rows[:_ROWS]]
    more = [f"(more than {_ROWS} rows; ask for less)"] if len(rows) > _ROWS else []
    return "\n".join([json.dumps([column[0] for column in cursor.description]), *lines, *more])


def _authorize(action: int, one: str | None, two: str | None, *_: Any) -> int:
    harmless = action in _READING and not (action == sqlite3.SQLITE_FUNCTION and (two or one or "") in _FORBIDDEN)
    return sqlite3.SQLITE_OK if harmless else sqlite3.SQLITE_DENY


def _shown(cell: Any) -> Any:
    if isinstance(cell, bytes):
        return f"<{len(cell)} bytes>"
    return f"{cell[:_CELL]}..." if isinstance(cell, str) and len(cell) > _CELL else cell
