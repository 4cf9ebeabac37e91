"""Read-only SQL on one local SQLite file.

Held shut three ways: the file is opened read-only, SQLite is told to run queries only, and an authorizer lets nothing
pass but reading tables and calling harmless functions. Time, memory, rows and the size of a cell are bounded; each
query runs in a process of its own, because nothing else can end every query.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from autotelic.core.errors import ModelRetry, UsageError
from autotelic.core.registry import register
from autotelic.tools import _sql_child
from autotelic.tools._tool import Tool, tool

__all__ = ["sql"]

_SECONDS, _ROWS, _CELL = 5.0, 100, 500


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
        with contextlib.closing(_sql_child.open_read_only(path.as_uri())) as db:
            tables = [row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{file} cannot be read as an SQLite database: {error}.") from None

    def query(statement: str) -> str:
        return _query(path, statement)

    query.__doc__ = (
        f"Run one SELECT on an SQLite database. Returns at most {_ROWS} rows as JSON lists, names first. "
        f"Tables: {' '.join('; '.join(tables).split())[:2000]}"
    )
    return tool(name="sql", seconds=_SECONDS + 5, permission="reads")(query)


def _query(path: Path, statement: str) -> str:
    asked = {"uri": path.as_uri(), "statement": statement, "rows": _ROWS, "cell": _CELL, "seconds": _SECONDS}
    command = [sys.executable, "-I", "-S", _sql_child.__file__]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, encoding="utf-8")
    if done.returncode == -signal.SIGALRM:
        error = "interrupted"
    elif done.returncode:
        error = f"the query's process ended with {done.returncode}: {done.stderr[-200:]}"
    else:
        answer = json.loads(done.stdout)
        if "text" in answer:
            return str(answer["text"])
        error = answer["error"]
    raise ModelRetry(f"{error}. One SELECT on this database is allowed, for {_SECONDS:g} s.")
