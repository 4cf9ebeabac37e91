"""A simulated self-play run that kills itself, again and again, and is started again with the same arguments.

    python driver.py RUN MODEL POINTS       kill at each point (a JSON list) in turn, then run to the end
    python driver.py --cli MODEL ARGS...    the command line, once, on simulated parts

A point is (round, node, moment). Moment 0 is just before the node's first write to the ledger, k just after its kth,
`end` after all of its work and before it is written down as done, `done` after that and before LangGraph's checkpoint.
Each attempt is a process of its own, forked after the imports; it writes down where it dies and sends itself SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import chromadb  # noqa: F401 (imported before the forks)
import reasoning_gym  # noqa: F401
from tests.graphs import simulated

from autotelic.graphs import SelfPlay, Session
from autotelic.store import Ledger, NodeRow

Point = tuple[int, str, int | str]


class Executioner:
    """Watches nodes and writes, and ends the process at the first point that it meets."""

    def __init__(self, points: set[Point], log: Path) -> None:
        self.points, self.log = points, log
        self.here: tuple[int, str] | None = None
        self.writes = 0

    def install(self) -> None:
        node, add, put = Session.node, Ledger.add, Ledger.put

        @asynccontextmanager
        async def watched(session: Session, name: str) -> AsyncIterator[NodeRow]:
            async with node(session, name) as row:
                self.here, self.writes = (session.round, name), 0
                yield row
                self.reach("end")
                here, self.here = self.here, None
            self.here = here
            self.reach("done")
            self.here = None

        def counted(write: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                if self.writes == 0:
                    self.reach(0)
                written = write(*args, **kwargs)
                self.writes += 1
                self.reach(self.writes)
                return written

            return call

        changed: Any = Session
        changed.node = watched
        ledger: Any = Ledger
        ledger.add, ledger.put = counted(add), counted(put)

    def reach(self, moment: int | str) -> None:
        if self.here is None or (*self.here, moment) not in self.points:
            return
        with self.log.open("a") as log:
            log.write(json.dumps([*self.here, moment]) + "\n")
            log.flush()
            os.fsync(log.fileno())
        os.kill(os.getpid(), signal.SIGKILL)


def attempt(run: Path, points: set[Point]) -> None:
    Executioner(points, run.with_suffix(".deaths")).install()
    asyncio.run(SelfPlay(simulated.small(), run).run())


def main(run: Path, model: Path, points: set[Point]) -> None:
    simulated.install(setattr, model)
    deaths = run.with_suffix(".deaths")
    while True:
        died = {tuple(json.loads(line)) for line in deaths.read_text().splitlines()} if deaths.exists() else set()
        child = os.fork()
        if child == 0:
            try:
                attempt(run, points - died)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGKILL:
            sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "--cli":
        simulated.install(setattr, Path(sys.argv[2]))
        sys.argv[1:] = sys.argv[3:]
        from autotelic.cli import main as command

        command()
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), {tuple(p) for p in json.loads(sys.argv[3])})
