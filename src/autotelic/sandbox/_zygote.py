"""The process inside the sandbox: forks one child for each task, so that a task costs a fork and not a Python start.

The zygote (pid 1 of its namespace, so nothing inside can signal it) never runs a candidate's code. It alone holds the
control socket and the task's nonce. The child gets a fresh pipe for its claim; the zygote kills everything that is left
before it reports. Standalone: only the standard library, started with `python -c`, with a private copy of `builtins`.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import math
import os
import resource
import secrets
import select
import shutil
import signal
import struct
import sys
import time
import types
from typing import Any

__all__ = ["encode", "literals"]

_TICK = 0.02
_MAX_INODES = 4096
_MAX_DEPTH = 100
_MAX_BITS = 14_000
_LENGTH = struct.Struct(">I")
# Taken before any candidate can patch the modules they come from; all are C functions without lookups of their own.
_read, _write, _exit, _getpid = os.read, os.write, os._exit, os.getpid
_isfinite, _quote = math.isfinite, json.encoder.encode_basestring_ascii


class TooLong(ValueError):
    """A value is over the size limit."""


def literals(text: str) -> tuple[Any, ...]:
    """Return the values of a list of literal arguments such as `'abc', [3]`.

    Raises:
        ValueError, SyntaxError, TypeError, RecursionError, MemoryError: it is not one.
    """
    call = ast.parse(f"f({text}\n)", mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        raise ValueError("not a list of positional arguments")
    return tuple(ast.literal_eval(argument) for argument in call.args)


def encode(value: Any, budget: int) -> str:
    """Return plain data as tagged JSON of at most `budget` characters; only the exact built-in types are plain data.

    Raises:
        TypeError: the value is, or holds, something else.
        ValueError: a number is not finite or too large, the nesting too deep, or the text over the budget (`TooLong`).
    """
    left = [budget]

    def spend(text: str) -> str:
        left[0] -= len(text) + 2
        if left[0] < 0:
            raise TooLong("the value is over the output limit")
        return text

    def pack(item: Any, depth: int) -> str:
        kind = type(item)
        if depth > _MAX_DEPTH:
            raise ValueError(f"the value is nested more than {_MAX_DEPTH} deep")
        if item is None or kind is bool:
            return spend("null" if item is None else "true" if item else "false")
        if kind is str:
            spend(item)  # counted before it is escaped: a limit means the same in every script
            return str(_quote(item))
        if kind is int:
            if item.bit_length() > _MAX_BITS:
                raise ValueError(f"an integer has more than {_MAX_BITS} bits")
            return spend(int.__repr__(item))
        if kind is float:
            return spend(_number(item))
        if kind is complex:
            return f'{{"c":[{spend(_number(item.real))},{spend(_number(item.imag))}]}}'
        if kind is bytes:
            return f'{{"b":"{spend(item.hex())}"}}'
        spend("")
        if kind in _TAGS:
            return f'{{"{_TAGS[kind]}":[{",".join([pack(part, depth + 1) for part in item])}]}}'
        if kind is dict:
            pairs = [f"[{pack(key, depth + 1)},{pack(part, depth + 1)}]" for key, part in item.items()]
            return f'{{"d":[{",".join(pairs)}]}}'
        raise TypeError(f"the result holds a {kind.__name__}, which is not plain data")

    return pack(value, 0)


_TAGS: dict[type, str] = {tuple: "t", list: "l", set: "s", frozenset: "f"}


def _number(item: float) -> str:
    if not _isfinite(item):
        raise ValueError("the result holds a number that is not finite")
    return float.__repr__(item)


# ---- the child: everything below runs beside the candidate's code and is not trusted by anybody ----------------------


def _child(request: dict[str, Any], claim: int, out: int, null: int, token: bytes) -> None:
    try:
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(null, 2)
        os.closerange(3, claim)
        os.closerange(claim + 1, 4096)
        _restrict(request["limits"])
        stdout, leader = sys.stdout, _getpid()
        result = _execute(request)
        if _getpid() != leader:
            _exit(0)  # a fork that came back out of the candidate's code has no say
        try:
            stdout.flush()
        except BaseException as error:
            result = _fault(error)
        text = result.encode()
        data = token + _LENGTH.pack(len(text)) + text
        while data:
            data = data[_write(claim, data) :]
    except MemoryError:
        _exit(77)
    finally:
        _exit(78)


def _restrict(limits: dict[str, Any]) -> None:
    os.setpgid(0, 0)
    cpu = math.ceil(limits["seconds"]) + 1
    memory = limits["memory"] << 20
    bounds = [
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, limits["files"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ]
    if os.getppid() == 1:  # counted for this user namespace alone: the zygote, this child and the extra ones
        bounds.append((resource.RLIMIT_NPROC, limits["processes"] + 2))
    for which, bound in bounds:
        resource.setrlimit(which, (bound, bound))


def _execute(request: dict[str, Any]) -> str:
    """Run the candidate and return the claim, as JSON."""
    budget = request["limits"]["output"]
    try:
        if request["kind"] == "call":
            arguments = literals(request["args"])
            names = _namespace(request["source"], "program")
            if request["function"] not in names:
                raise NameError(f"name {request['function']!r} is not defined")
            result = names[request["function"]](*arguments)
            return f'{{"status":"ok","value":{encode(result, budget)}}}'
        names = _namespace(request["source"], "__main__")
        if _LAST not in names:
            return '{"status":"ok"}'
        try:
            return f'{{"status":"ok","value":{encode(names[_LAST], budget)}}}'
        except TypeError:
            text = str.__str__(repr(names[_LAST]))
            return f'{{"status":"ok","text":{_quote(text)}}}' if len(text) <= budget else _OVER
    except TooLong:
        return _OVER
    except MemoryError:
        return '{"status":"memory"}'
    except BaseException as error:
        return _fault(error)


_OVER = '{"status":"output"}'
_LAST = "<last expression>"


def _namespace(source: str, name: str) -> dict[str, Any]:
    """Execute a program and return its globals; as `__main__`, its last expression is kept under `_LAST`."""
    tree = ast.parse(source, "<program>")
    if name == "__main__" and tree.body and isinstance(last := tree.body[-1], ast.Expr):
        target = ast.Name(_LAST, ast.Store())
        tree.body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
        ast.fix_missing_locations(tree)
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv[:] = [name]
    exec(compile(tree, "<program>", "exec"), module.__dict__)
    return module.__dict__


def _fault(error: BaseException) -> str:
    try:
        name = str.__str__(type(error).__name__)
    except BaseException:
        name = "Exception"
    try:
        text = str.__str__(str(error))[:400]
    except BaseException:
        text = ""
    return f'{{"status":"error","error":{_quote(name + ": " + text if text else name)}}}'


# ---- the zygote ---------------------------------------------------------------------------------------------------


def _receive(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = _read(0, min(size - len(data), 1 << 20))
        if not part:
            _exit(0)  # the host is gone or has closed us
        data += part
    return data


def _send(data: bytes) -> None:
    while data:
        data = data[_write(0, data) :]


def _run(request: dict[str, Any], null: int) -> tuple[dict[str, Any], bytes, bytes]:
    """Run one task in a child; return the report, its standard output and its claim."""
    limits = request["limits"]
    claim_read, claim_write = os.pipe()
    out_read, out_write = os.pipe()
    token = secrets.token_hex(16).encode()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(request, claim_write, out_write, null, token)
    with contextlib.suppress(OSError):  # the child does the same: whoever is first
        os.setpgid(pid, pid)
    os.close(claim_write)
    os.close(out_write)
    buffers = {claim_read: bytearray(), out_read: bytearray()}
    caps = {claim_read: len(token) + 4 + limits["output"] * 8 + 4096, out_read: limits["output"]}
    how = _watch(pid, began + limits["seconds"], buffers, caps, token, claim_read)
    exits = _kill_all(pid)
    if how != "output":
        over = _pump(list(buffers), buffers, caps) == "output"
        how = "output" if over and how in {"done", "exited"} else how
    seconds = time.monotonic() - began
    os.close(claim_read)
    os.close(out_read)
    claim = bytes(buffers[claim_read])
    report = {"nonce": request["nonce"], "how": how, "exit": exits.get(pid, 0), "seconds": seconds}
    if how in {"done", "exited"}:
        body = claim[len(token) + 4 :]
        if _complete(claim, token) and len(body) == _LENGTH.unpack_from(claim, len(token))[0]:
            report["how"] = "done"
        elif claim:
            report["how"] = "tampered"
        claim = body
    return report, bytes(buffers[out_read]), claim if report["how"] == "done" else b""


def _watch(
    pid: int, deadline: float, buffers: dict[int, bytearray], caps: dict[int, int], token: bytes, claim: int
) -> str:
    """Collect output until the claim is complete, the child is dead or a limit is broken; return which."""
    poller = select.poll()
    for fd in buffers:
        os.set_blocking(fd, False)
        poller.register(fd, select.POLLIN)
    open_fds, counted = set(buffers), time.monotonic()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return "timeout"
        ready = [fd for fd, _ in poller.poll(min(left, _TICK) * 1000)]
        if _pump(ready, buffers, caps, open_fds) == "output":
            return "output"
        for fd in set(ready) - open_fds:
            poller.unregister(fd)
        if _complete(buffers[claim], token):
            return "done"
        if not open_fds or (not ready and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None):
            return "exited"
        if _getpid() == 1 and time.monotonic() - counted >= _TICK / 2:  # by the clock: output is no way around it
            counted = time.monotonic()
            space = os.statvfs("/tmp")
            if space.f_files - space.f_ffree > _MAX_INODES:
                return "files"


def _pump(
    ready: list[int], buffers: dict[int, bytearray], caps: dict[int, int], open_fds: set[int] | None = None
) -> str:
    """Read what is there without waiting; return `output` if one of the pipes is over its cap."""
    for fd in ready:
        while len(buffers[fd]) <= caps[fd]:
            try:
                part = _read(fd, 65_536)
            except BlockingIOError:
                break
            if not part:
                if open_fds is not None:
                    open_fds.discard(fd)
                break
            buffers[fd] += part
        if len(buffers[fd]) > caps[fd]:
            del buffers[fd][caps[fd] :]
            return "output"
    return ""


def _complete(claim: bytes | bytearray, token: bytes) -> bool:
    start = len(token) + 4
    if len(claim) < start or not claim.startswith(token):
        return False
    return len(claim) >= start + int(_LENGTH.unpack_from(claim, len(token))[0])


def _kill_all(pid: int) -> dict[int, int]:
    """Kill everything the task left and wait until all of it is dead; return exit statuses by pid."""
    exits: dict[int, int] = {}
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # As pid 1 of a namespace, -1 means every other process in it and nothing outside.
            os.kill(-1, signal.SIGKILL) if _getpid() == 1 else os.killpg(pid, signal.SIGKILL)
        try:
            dead, status = os.waitpid(-1, 0)
            exits[dead] = status
        except ChildProcessError:
            return exits


def _wipe() -> bool:
    """Empty the tmpfs and reset what a task could leave a message in; return False where that fails."""
    os.chmod("/tmp", 0o700)  # noqa: PTH101
    try:
        with os.scandir("/tmp") as entries:
            left = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path, is_directory in left:
            shutil.rmtree(path) if is_directory else os.unlink(path)  # noqa: PTH108
    except (OSError, RecursionError):
        return False
    os.utime("/tmp", (0, 0))
    return True


def serve() -> None:
    """Answer requests on descriptor 0 until the host closes it."""
    os.closerange(3, 4096)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # pid 1 ignores what it has no handler for
    null = os.open("/dev/null", os.O_RDWR)
    alone = _getpid() == 1
    gc.freeze()
    if alone:
        _wipe()
    _send(_LENGTH.pack(0))
    while True:
        request = json.loads(_receive(_LENGTH.unpack(_receive(4))[0]))
        report, out, claim = _run(request, null)
        report |= {"out": len(out), "claim": len(claim), "dirty": alone and not _wipe()}
        head = json.dumps(report).encode()
        _send(_LENGTH.pack(len(head)) + head + out + claim)


if __name__ == "__sandbox__":
    import collections  # noqa: F401
    import datetime  # noqa: F401
    import fractions  # noqa: F401
    import functools  # noqa: F401
    import itertools  # noqa: F401
    import random  # noqa: F401
    import re  # noqa: F401
    import statistics  # noqa: F401
    import string  # noqa: F401
    import typing  # noqa: F401

    serve()
