"""MCP servers with faults, over stdio: `python mcp_odd.py FAULT FILE`; into FILE goes the id of the process.

FAULT: `endless`: the list of tools has no last page; `mute`: it never comes; `error`: it is refused; `schema`: one of
two tools has a schema that is none.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

fault, file = sys.argv[1:]
Path(file).write_text(str(os.getpid()))
pages = itertools.count()


def answer(method: str) -> dict[str, Any] | None:
    if method == "initialize":
        hello = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}
        return {"result": {**hello, "serverInfo": {"name": "odd", "version": "1"}}}
    if method == "tools/list" and fault == "endless":
        return {"result": {"tools": [], "nextCursor": str(next(pages))}}
    if method == "tools/list" and fault == "mute":
        return None
    if method == "tools/list" and fault == "schema":
        schemas = {"bad": {"type": "object", "properties": {"a": {"type": "objekt"}}}, "good": {"type": "object"}}
        return {"result": {"tools": [{"name": name, "inputSchema": schemas[name]} for name in schemas]}}
    return {"error": {"code": -32601, "message": f"no {method}"}}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked and (said := answer(asked["method"])) is not None:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}), flush=True)
