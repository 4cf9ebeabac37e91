"""The pool: a few warm zygotes, each with its own hash seed, replaced when they die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

from autotelic.core.errors import SandboxError, UsageError
from autotelic.sandbox._backend import Spawn, bubblewrap, unsafe_local
from autotelic.sandbox._model import Limits, Outcome
from autotelic.sandbox._selftest import selftest
from autotelic.sandbox._values import argument_error
from autotelic.sandbox._worker import Request, Worker

__all__ = ["Sandbox"]

_MAX_SOURCE = 1 << 20
_MEND = (
    "Install bubblewrap (pip install 'autotelic[sandbox]', or apt-get install bubblewrap, 0.8 or later) and allow "
    "unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0; in Docker: "
    "--security-opt seccomp=unconfined --cap-add SYS_ADMIN). For code that you trust, and for nothing else: "
    "sandbox: unsafe-local."
)


class Sandbox:
    """Where model-written code runs: no network, no files but its own, bounded time, memory, processes and output.

    Each task is a fresh process. What the sandbox does not stop: a program that measures time, or that returns (or
    writes into its own result pipe) whatever it likes. So the expected answer never goes in, and values are compared
    outside.
    """

    def __init__(self, backend: str, spawn: Spawn, limits: Limits) -> None:
        self.backend = backend
        self.limits = limits
        self._spawn = spawn
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._change = asyncio.Condition()
        self._closed = False

    @classmethod
    async def open(cls, backend: str = "auto", *, workers: int = 2, limits: Limits | None = None) -> Sandbox:
        """Start the strongest back end that passes its self-test, or the one named.

        Args:
            backend: `auto`, `bubblewrap`, or `unsafe-local` (no boundary at all; never chosen by `auto`, and written
                into every outcome).
            workers: programs at a time; at least two are started, because `call_twice` needs two hash seeds.
            limits: defaults for every call; `files` is fixed here.

        Raises:
            SandboxError: no back end passed; the message says what was tried and how to mend it.
            UsageError: there is no such back end.
        """
        limits = limits or Limits()
        if backend not in {"auto", "bubblewrap", "unsafe-local"}:
            raise UsageError(f"there is no sandbox back end {backend!r}. Use auto, bubblewrap or unsafe-local.")
        local = backend == "unsafe-local"
        try:
            self = (
                cls(backend, unsafe_local(limits), limits) if local else cls("bubblewrap", bubblewrap(limits), limits)
            )
            await self._fill(max(2, workers))
            if not local:
                await self._prove()
        except SandboxError as error:
            raise SandboxError(f"no sandbox is available; tried {backend}: {error}. {_MEND}") from error
        return self

    async def call(self, source: str, function: str, args: str, limits: Limits | None = None) -> Outcome:
        """Execute a program, then call one of its functions; `value` is the result, which has to be plain data.

        Args:
            source: the program; it sees `__name__ == "program"`.
            function: a name that it defines.
            args: literals as they would stand between the parentheses, e.g. `'abc', 3`; anything else is refused.
            limits: instead of the sandbox's own.
        """
        outcome, _ = await self._execute({"kind": "call", "source": source, "function": function, "args": args}, limits)
        return outcome

    async def call_twice(self, source: str, function: str, args: str, limits: Limits | None = None) -> Outcome:
        """Do `call` in two processes with different hash seeds and memory layouts.

        Values that differ make the outcome an `error` that begins with `NotDeterministic`. Otherwise it is the first
        one that is not `ok`, or the second.
        """
        request = {"kind": "call", "source": source, "function": function, "args": args}
        first, seed = await self._execute(request, limits)
        if first.status != "ok":
            return first
        second, _ = await self._execute(request, limits, avoid=seed)
        if second.status == "ok" and second.value != first.value:
            error = f"NotDeterministic: two runs gave {str(first.value)[:80]} and {str(second.value)[:80]}"
            return second.model_copy(update={"status": "error", "value": None, "error": error})
        return second

    async def run(self, source: str, limits: Limits | None = None) -> Outcome:
        """Execute a program as `__main__`; `value` is its last statement if that is an expression, else `None`.

        A value that is not plain data comes as the `repr` that it chose for itself: for reading, not for judging.
        """
        outcome, _ = await self._execute({"kind": "run", "source": source}, limits)
        return outcome

    async def aclose(self) -> None:
        """Kill everything. Calls that are under way come back `crashed`."""
        self._closed = True
        for worker in self._workers:
            await worker.kill()
        self._workers.clear()
        self._idle.clear()
        async with self._change:
            self._change.notify_all()

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _execute(self, request: Request, limits: Limits | None, avoid: int | None = None) -> tuple[Outcome, int]:
        """Return the outcome and the hash seed of the worker that ran it (never one with the seed `avoid`)."""
        limits = limits or self.limits
        if reason := _refusal(request, limits):
            return Outcome(status="refused", error=reason, backend=self.backend), -1
        async with self._lease(avoid) as worker:
            return await worker.execute(request, limits), worker.seed

    @asynccontextmanager
    async def _lease(self, avoid: int | None) -> AsyncIterator[Worker]:
        async with self._change:
            await self._change.wait_for(lambda: self._closed or any(w.seed != avoid for w in self._idle))
            if self._closed:
                raise SandboxError("the sandbox is closed. Open a new one with Sandbox.open().")
            worker = next(w for w in self._idle if w.seed != avoid)
            self._idle.remove(worker)
        try:
            if worker.dead:
                worker = await self._start(worker.seed)
            yield worker
        finally:
            await asyncio.shield(self._give_back(worker))

    async def _give_back(self, worker: Worker) -> None:
        async with self._change:
            self._idle.append(worker)
            self._change.notify_all()

    async def _start(self, seed: int) -> Worker:
        worker = await Worker.start(self._spawn, seed, self.backend)
        self._workers = [*(w for w in self._workers if not w.dead), worker]
        return worker

    async def _fill(self, count: int) -> None:
        started = await asyncio.gather(*map(self._start, range(count)), return_exceptions=True)
        if faults := [fault for fault in started if isinstance(fault, BaseException)]:
            await self.aclose()
            raise faults[0]
        self._idle = list(self._workers)

    async def _prove(self) -> None:
        try:
            faults = await selftest(self)
        except BaseException:
            await self.aclose()
            raise
        if faults:
            await self.aclose()
            raise SandboxError(f"the self-test of {self.backend} failed: {'; '.join(faults)}")


def _refusal(request: Request, limits: Limits) -> str:
    if len(request["source"]) > _MAX_SOURCE:
        return f"the program has {len(request['source'])} characters, at most {_MAX_SOURCE} are allowed"
    if request["kind"] == "run":
        return ""
    if not request["function"].isidentifier():
        return f"{request['function'][:80]!r} is not the name of a function"
    return argument_error(request["args"], limits.output)
