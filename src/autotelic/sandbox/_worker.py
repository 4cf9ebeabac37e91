"""One warm zygote seen from outside: its process, its control socket, and the only place that judges its answers."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from autotelic.core.errors import SandboxError
from autotelic.sandbox._backend import Spawn
from autotelic.sandbox._model import Limits, Outcome, Status
from autotelic.sandbox._values import BadClaim, decode, parse

__all__ = ["Request", "Worker"]

Request = dict[str, Any]

_LENGTH = struct.Struct(">I")
_START_SECONDS = 30.0
_GRACE_SECONDS = 5.0
_WATCH_AFTER, _WATCH_EVERY = 0.1, 0.05
_INTERPRETER_MIB = 16
_OUT_OF_MEMORY = 77
_MAX_HEAD = 4096


class Worker:
    """A zygote that answers one request at a time. After `dead` turns true it has to be replaced."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        control: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        seed: int,
        backend: str,
    ) -> None:
        self.seed = seed
        self.dead = False
        self._process = process
        self._backend = backend
        self._reader, self._writer = control

    @classmethod
    async def start(cls, spawn: Spawn, seed: int, backend: str) -> Worker:
        """Start a zygote and wait until it is ready.

        It dies with the *thread* that called this (the kernel's parent-death signal works that way).

        Raises:
            SandboxError: it did not come up; the message ends with what it complained about.
        """
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as complaints:
            with theirs:
                # Connected first: from the process' start on, whatever cancels us ends it.
                control = await asyncio.open_unix_connection(sock=ours)
                try:
                    worker = cls(spawn(theirs, complaints, seed), control, seed, backend)
                except OSError as error:
                    control[1].close()
                    raise SandboxError(f"{backend} cannot be started: {error}") from error
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await worker._reader.readexactly(4)
            except (TimeoutError, asyncio.IncompleteReadError, OSError) as error:
                await worker.kill()
                complaints.seek(0)
                said = complaints.read(2000).decode(errors="replace").strip() or type(error).__name__
                raise SandboxError(f"{backend} did not come up: {said}") from None
            except BaseException:
                await worker.kill()
                raise
        return worker

    async def execute(self, request: Request, limits: Limits) -> Outcome:
        """Run one program; whatever it does, the answer is an outcome, and nothing of it is left running."""
        nonce = secrets.token_hex(16)
        body = json.dumps(request | {"nonce": nonce, "limits": limits.model_dump()}).encode()
        watch = asyncio.create_task(self._watch_memory(limits))
        try:
            async with asyncio.timeout(limits.seconds + _GRACE_SECONDS):
                self._writer.write(_LENGTH.pack(len(body)) + body)
                await self._writer.drain()
                head, stdout, claim = await self._receive(nonce, limits)
        except (TimeoutError, asyncio.IncompleteReadError, OSError, BadClaim) as error:
            await self.kill()
            return self._lost(error, watch.done() and not watch.cancelled(), limits)
        except BaseException:
            await self.kill()  # cancelled half-way: the next answer would be this one's
            raise
        finally:
            watch.cancel()
        self.dead = head["dirty"] is True
        if self.dead:
            await self.kill()
        return self._judge(head, stdout, claim, limits)

    async def kill(self) -> None:
        """Kill the zygote and with it everything in its namespace; return when it is gone."""
        self.dead = True
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._writer.close()

    async def _receive(self, nonce: str, limits: Limits) -> tuple[dict[str, Any], bytes, bytes]:
        (size,) = _LENGTH.unpack(await self._reader.readexactly(4))
        if size > _MAX_HEAD:
            raise BadClaim("the report is too long")
        head = json.loads(await self._reader.readexactly(size))
        most = limits.output * 8 + 65_536
        if head["nonce"] != nonce or not 0 <= head["out"] <= most or not 0 <= head["claim"] <= most:
            raise BadClaim("the report is not about this task")
        return head, await self._reader.readexactly(head["out"]), await self._reader.readexactly(head["claim"])

    async def _watch_memory(self, limits: Limits) -> None:
        """Return when the processes together hold more than the limit, having killed them."""
        await asyncio.sleep(_WATCH_AFTER)
        while True:
            sizes = _resident_mib(self._process.pid)
            if sum(sizes) > limits.memory + _INTERPRETER_MIB * len(sizes):
                self._process.send_signal(signal.SIGKILL)
                return
            await asyncio.sleep(_WATCH_EVERY)

    def _lost(self, error: Exception, over_memory: bool, limits: Limits) -> Outcome:
        if over_memory:
            return self._outcome("memory", f"MemoryError: all processes together held more than {limits.memory} MiB")
        if isinstance(error, TimeoutError):
            return self._outcome("timeout", f"no answer within {limits.seconds:g} s", seconds=limits.seconds)
        return self._outcome("crashed", f"the sandbox died under the program ({type(error).__name__})")

    def _judge(self, head: dict[str, Any], stdout: bytes, claim: bytes, limits: Limits) -> Outcome:
        how, seconds = head["how"], float(head["seconds"])
        text = stdout.decode("utf-8", errors="replace")
        if how == "done":
            status, value, error = _verdict(claim, limits)
        else:
            status, error = _ending(how, int(head["exit"]), limits)
            value = None
        return self._outcome(status, error, value=value, stdout=text, seconds=seconds)

    def _outcome(
        self, status: Status, error: str, *, value: str | None = None, stdout: str = "", seconds: float = 0.0
    ) -> Outcome:
        return Outcome(status=status, value=value, stdout=stdout, error=error, seconds=seconds, backend=self._backend)


def _verdict(claim: bytes, limits: Limits) -> tuple[Status, str | None, str]:
    over = f"the value is over the limit of {limits.output} bytes"
    try:
        data = parse(claim)
        status = data["status"]
        if status == "ok":
            if not {"text", "value"} & data.keys():
                return "ok", None, ""
            value = _text(data["text"]) if "text" in data else decode(data["value"])
            return ("output", None, over) if len(value.encode(errors="replace")) > limits.output else ("ok", value, "")
        if status == "output":
            return "output", None, over
        if status == "memory":
            return "memory", None, f"MemoryError: more than {limits.memory} MiB"
        return "error", None, _line(_text(data["error"]))
    except (BadClaim, KeyError, ValueError, RecursionError) as error:
        return "crashed", None, f"the program wrote to the result channel ({_line(str(error))})"


def _ending(how: str, status: int, limits: Limits) -> tuple[Status, str]:
    if how == "timeout":
        return "timeout", f"no result within {limits.seconds:g} s"
    if how == "output":
        return "output", f"more than {limits.output} bytes of output"
    if how == "files":
        return "output", "too many files"
    if how == "tampered":
        return "crashed", "the program wrote to the result channel"
    if number := status & 0x7F:
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        return ("timeout", "CPU time is up") if name == "SIGXCPU" else ("crashed", f"killed by {name}")
    if (code := status >> 8) == _OUT_OF_MEMORY:
        return "memory", f"MemoryError: more than {limits.memory} MiB"
    return "crashed", f"the process ended with exit code {code} before it gave a result"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadClaim("not a text")
    return value


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:400].strip()


def _resident_mib(root: int) -> list[float]:
    """Return the resident MiB of `root` and of each process below it; the ones that have just ended count nothing."""
    page = os.sysconf("SC_PAGE_SIZE")
    found: list[float] = []
    queue = [root]
    while queue:
        process = Path(f"/proc/{queue.pop()}")
        try:
            found.append(int((process / "statm").read_text().split()[1]) * page / (1 << 20))
            for thread in (process / "task").iterdir():
                queue += map(int, (thread / "children").read_text().split())
        except (OSError, ValueError, IndexError):
            continue
    return found
