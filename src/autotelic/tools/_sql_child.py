"""A process for one query, standard library only: what runs too long is killed by the kernel, with its process.

SQLite asks no one between the steps of a statement's inner work: `instr` on two long texts, `LIKE` with many wildcards
or a sort can take minutes in a single step. So the bound is an alarm that ends this process, whoever waits for it.
"""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
import sys
from typing import Any

__all__ = ["open_read_only"]

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION}
_FORBIDDEN = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "randomblob", "zeroblob"}
_MEMORY = 2**30


def open_read_only(uri: str) -> sqlite3.Connection:
    """Open a database such that it can only be read."""
    db = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=2.0)
    db.execute("PRAGMA query_only = ON")
    db.execute("PRAGMA temp_store = MEMORY")
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000_000)
    db.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 20_000)
    return db


def _query(uri: str, statement: str, rows: int, cell: int) -> str:
    db = open_read_only(uri)
    db.set_authorizer(_authorize)
    cursor = db.execute(statement)
    found = cursor.fetchmany(rows + 1)
    if cursor.description is None:
        raise ValueError("that was no query")
    lines = [json.dumps([_shown(value, cell) for value in row], ensure_ascii=False) for row in found[:rows]]
    more = [f"(more than {rows} rows; ask for less)"] if len(found) > rows else []
    return "\n".join([json.dumps([column[0] for column in cursor.description]), *lines, *more])


def _authorize(action: int, one: str | None, two: str | None, *_: Any) -> int:
    harmless = action in _READING and not (action == sqlite3.SQLITE_FUNCTION and (two or one or "") in _FORBIDDEN)
    return sqlite3.SQLITE_OK if harmless else sqlite3.SQLITE_DENY


def _shown(value: Any, cell: int) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return f"{value[:cell]}..." if isinstance(value, str) and len(value) > cell else value


def _main() -> None:
    asked = json.load(sys.stdin)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends the process; Python would wait for SQLite
    signal.setitimer(signal.ITIMER_REAL, asked["seconds"])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        answer = {"text": _query(asked["uri"], asked["statement"], asked["rows"], asked["cell"])}
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        answer = {"error": str(error) or "out of memory"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
