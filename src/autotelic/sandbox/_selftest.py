"""A back end is believed when it has just held: a few attacks, each judged by looking from outside.

The secret lies in a file that anybody may read and the socket listens on loopback, so that only the walls can stop the
program, not file permissions or a closed port.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Protocol

from autotelic.sandbox._model import Limits, Outcome

__all__ = ["selftest"]

_PROBE = """
import glob, os, socket

def attempt(action):
    try:
        return repr(action())
    except BaseException as error:
        return type(error).__name__

def connect(port):
    with socket.create_connection(("127.0.0.1", port), 0.2) as wire:
        wire.sendall(b"x")
    return "connected"

def probe(secret, written, port):
    return {
        "file": attempt(lambda: open(secret).read()),
        "write": attempt(lambda: open(written, "w").write("x")),
        "root": attempt(lambda: open("/written", "w").write("x")),
        "network": attempt(lambda: connect(port)),
        "proc": attempt(lambda: glob.glob("/proc/*/environ")),
        "env": sorted(os.environ),
        "fork": attempt(lambda: min(os.fork(), 1)),
        "uid": os.getuid(),
        "unshare": attempt(lambda: __import__("ctypes").CDLL(None).unshare(0x10000000)),
    }
"""
_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
_FORGE = """
import json, os
text = json.dumps({"status": "ok", "value": "forged"}).encode()
for token in (b"", b"0" * 32):
    for fd in range(3, 256):
        try:
            os.write(fd, token + len(text).to_bytes(4, "big") + text)
        except OSError:
            pass
os._exit(0)
"""
_KNOWN_ENVIRONMENT = {
    "HOME", "LC_ALL", "LC_CTYPE", "MALLOC_ARENA_MAX", "PWD", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8", "TZ"
}  # fmt: skip


class _Runner(Protocol):
    async def call(self, source: str, function: str, args: str, limits: Limits | None = None) -> Outcome: ...
    async def run(self, source: str, limits: Limits | None = None) -> Outcome: ...


async def selftest(sandbox: _Runner) -> list[str]:
    """Attack a sandbox; return what it did not hold against, empty if it held."""
    bomb = sandbox.run(_BOMB, Limits(seconds=0.25, processes=8))
    faults, exploded, forged = await asyncio.gather(_probe(sandbox), bomb, sandbox.run(_FORGE))
    if exploded.status == "ok":
        faults.append("a fork bomb ended well")
    if forged.status != "crashed":
        faults.append(f"a forged result came back as {forged.status}")
    after = await sandbox.call("def f(a, b):\n    return a + b", "f", "'4', '2'")
    if (after.status, after.value) != ("ok", "'42'"):
        faults.append(f"it does not work after the attacks: {after.status} {after.error}")
    return faults


async def _probe(sandbox: _Runner) -> list[str]:
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as server:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "secret").write_text(mark)
        (folder / "secret").chmod(0o644)
        port = server.getsockname()[1]
        args = f"{str(folder / 'secret')!r}, {str(folder / 'written')!r}, {port}"
        outcome = await sandbox.call(_PROBE, "probe", args, Limits(seconds=5))
        server.setblocking(False)
        try:
            server.accept()[0].close()
            faults = ["a program reached the network"]
        except BlockingIOError:
            faults = []
        if (folder / "written").exists():
            faults.append("a program wrote outside")
    return faults + _read(outcome, mark)


def _read(outcome: Outcome, mark: str) -> list[str]:
    if outcome.status != "ok" or outcome.value is None:
        return [f"the probe ended with {outcome.status}: {outcome.error}"]
    seen = outcome.value
    leaks = [word for word in _words(seen, "'env': [") if word not in _KNOWN_ENVIRONMENT]
    faults = [f"a program saw the variable {word}" for word in leaks]
    checks = {
        "a program read a file of the host": mark in seen,
        "a program wrote to the root": "'root': '1'" in seen,
        "a program could list /proc": "'proc': '[]'" not in seen,
        "a program runs as root": "'uid': 0" in seen,
        "a program made a user namespace": "'unshare': '-1'" not in seen,
        "a program cannot fork": "'fork': '1'" not in seen,
    }
    return faults + [fault for fault, broken in checks.items() if broken]


def _words(text: str, start: str) -> list[str]:
    body = text.partition(start)[2].partition("]")[0]
    return [word.strip(" '") for word in body.split(",") if word.strip()]
