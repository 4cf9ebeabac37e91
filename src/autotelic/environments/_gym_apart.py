"""Scoring in a process of its own, which the kernel ends when one answer takes too long.

Whether an integral is right, sympy decides by simplifying what the model wrote, and no rule about a text bounds the
time of that. So the worker sets an alarm on its own processor time, which no Python code can catch or outlast. An
answer that it dies of is wrong, and the next one gets a new worker.

Not covered: memory, beyond what the allowed seconds can fill.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from autotelic.core.errors import EnvironmentFailure

__all__ = ["Apart", "serve"]

Score = Callable[[str, dict[str, Any]], float]

_SERVE = "import sys; from autotelic.environments._gym_apart import serve; serve(float(sys.argv[1]))"


class Apart:
    """Calls scorers in another process, one after the other; the process starts with the first answer.

    Args:
        seconds: processor time that one answer may take. Right answers take milliseconds.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._line: ThreadPoolExecutor | None = None  # of its own: who waits here must not keep others waiting
        self._closing = False
        self._worker: subprocess.Popen[bytes] | None = None
        self._ending: Callable[[], object] | None = None

    async def score(self, scorer: Score, answer: str, entry: dict[str, Any]) -> float:
        """Return `scorer(answer, entry)`; all three have to be pickled.

        Raises:
            TimeoutError: it took too long.
            ValueError: it raised.
            EnvironmentFailure: the process ended by itself, which is no verdict on the answer.
        """
        if self._line is None:
            self._line = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")
        return await asyncio.get_running_loop().run_in_executor(self._line, self._score, scorer, answer, entry)

    def close(self) -> None:
        """End the process and whatever waits for it. Calling it twice is fine, and so is scoring again afterwards."""
        line, self._line = self._line, None
        if line is None:
            return
        self._closing = True
        line.shutdown(wait=False, cancel_futures=True)
        if self._worker is not None:
            self._worker.kill()
        line.shutdown()
        self._closing = False
        self._end()

    def _score(self, scorer: Score, answer: str, entry: dict[str, Any]) -> float:
        worker = self._running()
        if self._closing:  # just before it began to run
            worker.kill()
        line = _asked(worker, pickle.dumps((scorer, answer, entry)))
        if not line:
            code = worker.wait()
            self._end()
            raise self._failure(code)
        said = json.loads(line)
        if "error" in said:
            raise ValueError(said["error"])
        return float(said["score"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._worker is None:
            self._worker = _start(self._seconds)
            self._ending = weakref.finalize(self, _end, self._worker)
        return self._worker

    def _end(self) -> None:
        if self._ending is not None:
            self._ending()
        self._worker = self._ending = None

    def _failure(self, code: int) -> Exception:
        if code == -signal.SIGPROF:
            return TimeoutError(f"to score it takes more than {self._seconds:g} s")
        return EnvironmentFailure(
            f"the process that scores answers ended with exit code {code}; expected a score. See whether this machine "
            "has memory to spare."
        )


def serve(seconds: float) -> None:
    """Score what comes in until nothing comes any more: the worker's whole life."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a scorer prints is no answer
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while True:
        try:
            scorer, answer, entry = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        said = _said(scorer, answer, entry)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(said), file=answers, flush=True)


def _said(scorer: Score, answer: str, entry: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"score": scorer(answer, entry)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _start(seconds: float) -> subprocess.Popen[bytes]:
    # The worker must find this very package, also when it was not installed but put on the path.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE, str(seconds)],  # nothing is imported from the current directory
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the run, which then ends its workers
    )


def _asked(worker: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Send a request and return the line that answers it, empty if the worker ended instead."""
    asks, answers = _pipes(worker)
    try:
        asks.write(request)
        asks.flush()
        return answers.readline()
    except BrokenPipeError:
        return b""


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    for pipe in _pipes(worker):
        with suppress(BrokenPipeError):  # half a request that nobody will read
            pipe.close()


def _pipes(worker: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert worker.stdin is not None and worker.stdout is not None
    return worker.stdin, worker.stdout
