"""The parent's side of the trainer process: start it, give it work, never leave it behind.

The worker outlives its jobs so that the next one starts at once. Whatever goes wrong (an error in the job, a hang,
kill -9) ends as a `TrainingError` with the tail of the log, nothing half-made on disk, and a fresh worker next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from autotelic.core.errors import TrainingError, UsageError
from autotelic.core.threads import thread_environment
from autotelic.training.job import CanaryJob, CanaryResult, TrainingJob, TrainingResult, TrainingStep
from autotelic.training.policies import partial_of

__all__ = ["Trainer"]

_LINE_LIMIT = 64 << 20
_TAIL = 2000
_START_SECONDS = 300.0


class Trainer:
    """One trainer process, started when first needed. Use as an async context manager, or call `aclose`.

    Args:
        log: File that everything the worker prints is appended to.
        threads: Threads it computes with, `None` for one a core.
        timeout: Seconds without a sign of life from a job after which it counts as hung.
        environment: Variables to add to the worker's environment.
    """

    def __init__(
        self,
        log: Path,
        threads: int | None = None,
        timeout: float = 600.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._threads = threads or len(os.sched_getaffinity(0))
        self._timeout = timeout
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Trainer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def pid(self) -> int | None:
        """Process id of the worker, `None` while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def warm(self) -> None:
        """Start the worker and wait until it has imported what it needs (about 10 s on two cores).

        Raises:
            TrainingError: it did not start.
        """
        async with self._lock:
            await self._started()

    async def check(self, method: str, settings: Mapping[str, Any], plugins: Sequence[str] = ()) -> None:
        """Make sure that there is a method, and that it takes these settings.

        Raises:
            UsageError: there is none of that name, or a setting cannot work.
            TrainingError: the worker failed.
        """
        await self._run("check", {"name": method, "settings": dict(settings), "plugins": list(plugins)})

    async def train(
        self,
        job: TrainingJob,
        on_progress: Callable[[TrainingStep], None] | None = None,
        on_canary: Callable[[tuple[int, ...]], None] | None = None,
    ) -> TrainingResult:
        """Run a job; a job whose result is in `job.out` already is not run again.

        Args:
            job: what to train.
            on_progress: called after every step.
            on_canary: called before the first one with the token ids that the new policy's canary will have.

        Raises:
            TrainingError: it failed, hung or was killed. `job.out` is as it was before.
            UsageError: its settings, its data or its model cannot work.
        """
        try:
            payload = await self._run("train", job.model_dump(mode="json"), on_progress, on_canary)
        finally:
            shutil.rmtree(partial_of(Path(job.out)), ignore_errors=True)
        return TrainingResult.model_validate(payload)

    async def prepare_base(self, path: Path) -> CanaryResult:
        """Hash and fingerprint weights that exist already: what makes a directory policy 0.

        Raises:
            TrainingError: the worker failed.
            UsageError: there is no model in `path`.
        """
        return CanaryResult.model_validate(await self._run("canary", CanaryJob(base=str(path)).model_dump(mode="json")))

    async def aclose(self) -> None:
        """End the worker, in the middle of a job if need be."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        # Drop the pipe's transport now: left to the garbage collector it outlives the event loop.
        process._transport.close()  # type: ignore[attr-defined]

    async def _run(
        self,
        kind: str,
        job: dict[str, Any],
        on_progress: Callable[[TrainingStep], None] | None = None,
        on_canary: Callable[[tuple[int, ...]], None] | None = None,
    ) -> Any:
        async with self._lock:
            try:
                await self._started()
                process = self._process
                assert process is not None and process.stdin is not None
                process.stdin.write(json.dumps({"kind": kind, "job": job}).encode() + b"\n")
                await process.stdin.drain()
                while True:
                    event = await self._event(self._timeout)
                    if event["event"] == "step" and on_progress is not None:
                        on_progress(TrainingStep.model_validate(event["payload"]))
                    if event["event"] == "canary" and on_canary is not None:
                        on_canary(tuple(event["payload"]["token_ids"]))
                    if event["event"] == "result":
                        return event["payload"]
                    if event["event"] == "error":
                        raise self._refusal(event["payload"])
            except UsageError:
                raise
            except BaseException as error:
                # Also on cancellation: a job nobody waits for must not go on, and a worker in doubt is not used again.
                await self.aclose()
                if isinstance(error, (OSError, ConnectionError)):
                    raise self._failure(f"the trainer process cannot be reached ({error})") from error
                raise

    def _refusal(self, payload: Mapping[str, str]) -> Exception:
        if payload["kind"] == "UsageError":
            return UsageError(payload["message"])
        if payload["kind"]:
            return TrainingError(payload["message"])
        return self._failure(f"training failed with {payload['message']}")

    async def _started(self) -> None:
        if self.pid is not None:
            return
        await self.aclose()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | self._environment | thread_environment(self._threads)
        # A worker must find this very package, also when it was not installed but put on the path.
        source = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        with self._log.open("ab") as log:
            self._process = await self._spawn(environment, log)
        event = await self._event(_START_SECONDS)
        if event["event"] != "ready":
            raise self._failure(f"the trainer process began with {event['event']!r} instead of 'ready'")

    async def _spawn(self, environment: dict[str, str], log: IO[bytes]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "autotelic.training.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environment,
            limit=_LINE_LIMIT,
        )

    async def _event(self, timeout: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), timeout)
        except TimeoutError:
            raise self._failure(f"the trainer process gave no sign of life for {timeout:.0f} s and was ended") from None
        if not line.endswith(b"\n"):
            code = await process.wait()
            raise self._failure(f"the trainer process ended with exit code {code}")
        event: dict[str, Any] = json.loads(line)
        return event

    def _failure(self, what: str) -> TrainingError:
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
                tail = log.read().decode(errors="replace")
        except OSError:
            tail = ""
        return TrainingError(
            f"{what}. The champion is untouched; run the same command again to go on. End of {self._log}:\n{tail}"
        )
