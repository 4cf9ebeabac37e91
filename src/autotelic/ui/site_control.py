"""What a person starts and stops: sessions, and changes of the champion.

Each is the command that one would type, as a process of its own: it goes on when this app ends, and what it prints is
in the run's `logs/`. Stopping sends what Ctrl-C sends to whoever holds the run's lease. The loop cannot pause: stopping
and going on is what there is, and nothing is lost by it.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from autotelic.core.config import load_config
from autotelic.core.errors import UsageError
from autotelic.core.run_dir import RunDir
from autotelic.core.words import PolicyState
from autotelic.graphs import Config
from autotelic.graphs.actions import describe_policies
from autotelic.store import Ledger, RunRow
from autotelic.ui.browse import holder

if TYPE_CHECKING:
    from autotelic.ui.site import Site

__all__ = ["Configs", "Job", "Jobs", "Steering"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SKELETON = {"logs", "memory", "policies", "lock", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"}
_TAIL = 64 * 1024
_MOST_LOGS = 30
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")
_ENDS = {
    0: "done",
    2: "ended: you have to act, see below",
    3: "waits for a person",
    130: "stopped, can go on",
    -signal.SIGINT: "stopped, can go on",
    -signal.SIGTERM: "stopped, can go on",
}


@dataclass(frozen=True)
class Configs:
    """The files that a session can be started from: those in a directory, by name; a name is never a path."""

    root: Path | None
    """The directory."""

    def names(self) -> list[str]:
        """Return the files' names, from the directory."""
        if self.root is None or not self.root.is_dir():
            return []
        home = self.root.resolve()
        found = [path for path in home.rglob("*.yaml") if path.is_file() and path.resolve().is_relative_to(home)]
        return sorted(str(path.relative_to(home)) for path in found)

    def open(self, name: str) -> Path:
        """Return the file of that name.

        Raises:
            UsageError: there is none.
        """
        if self.root is None or name not in self.names():
            raise UsageError(f"there is no config {name[:100]!r} to start from. Choose one from the list.")
        return self.root / name


@dataclass(frozen=True)
class Job:
    """A command that this app began."""

    run: RunDir
    """Of which run."""
    log: Path
    """What it prints."""
    process: subprocess.Popen[bytes]
    """The process."""

    @property
    def going(self) -> bool:
        """Whether it is not over."""
        return self.process.poll() is None

    @property
    def said(self) -> str:
        """How it stands, in words."""
        code = self.process.poll()
        return "going on" if code is None else _ENDS.get(code, f"failed with code {code}, see below")


_WILLING = (
    *(sys.executable, "-IS", "-c"),
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
)
"""Before a command: has it end by Ctrl-C also where this app was started in the background, which ignores that."""
_PROGRAM = (sys.executable, "-P", "-m", "autotelic")  # -P: nothing is imported from where the app was started


class Jobs:
    """The commands that this app began, the last one of each run.

    Args:
        program: what runs a command, its arguments come after.
    """

    def __init__(self, program: Sequence[str] = _PROGRAM) -> None:
        self._program = program
        self._last: dict[str, Job] = {}
        self._lock = threading.Lock()

    def begin(self, run: RunDir, what: str, arguments: list[str]) -> Job:
        """Begin a command.

        Args:
            run: of which run; the log is in its directory.
            what: in the log's name.
            arguments: of `autotelic`.

        Raises:
            UsageError: somebody has the run.
        """
        with self._lock:
            if self.busy(run):
                raise UsageError(f"{run.root.name} is in use. Wait until that has ended, or stop it.")
            run.create()
            log = run.logs / f"{what}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03}.log"
            command = [*_WILLING, *self._program, *arguments]
            with log.open("xb") as out:
                out.write(f"$ autotelic {shlex.join(arguments)}\n".encode())
                out.flush()
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
                )
            threading.Thread(target=process.wait, daemon=True).start()  # so that nothing is left of it when it ends
            job = self._last[run.root.name] = Job(run, log, process)
            return job

    def of(self, name: str) -> Job | None:
        """Return the last command of a run, `None` if this app began none."""
        return self._last.get(name)

    def directory(self, name: str) -> RunDir | None:
        """Return the directory of a run that was begun here, there or not yet."""
        job = self.of(name)
        return job.run if job else None

    def starting(self, shown: Iterable[str]) -> list[Job]:
        """Return the commands of runs that are not there yet, or never came to be."""
        known = set(shown)
        return [job for name, job in self._last.items() if name not in known]

    def busy(self, run: RunDir) -> bool:
        """Whether somebody has the run, or is about to."""
        job = self.of(run.root.name)
        return holder(run) is not None or (job is not None and job.going)


class Steering:
    """See the module.

    Args:
        configs: what a session can be started from.
        jobs: the commands that were begun.
    """

    def __init__(self, configs: Configs, jobs: Jobs) -> None:
        self.configs = configs
        self.jobs = jobs
        self.busy = jobs.busy
        self._told: set[tuple[str, int]] = set()

    def routes(self, site: Site) -> list[Route]:
        """Return the routes."""
        self._site = site
        acts = {
            "/start": self.start,
            "/runs/{run}/resume": self.resume,
            "/runs/{run}/stop": self.stop,
            "/runs/{run}/policies": self.crown,
        }
        return [
            *(Route(path, site.shown(handler), methods=["POST"]) for path, handler in acts.items()),
            Route("/runs/{run}/log", site.shown(self.log), methods=["GET"]),
            Route("/runs/{run}/log/tail", site.shown(self.tail), methods=["GET"]),
        ]

    def start(self, request: Request) -> Response:
        """Start a session from a config."""
        form = request.state.form
        config, name = self.configs.open(form.get("config", "")), form.get("name", "").strip()
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"a run cannot be called {name[:80]!r}. Use 1 to 64 letters, digits, dots, dashes and underscores, "
                "a letter or a digit first."
            )
        run = RunDir(self._site.runs.root / name)
        if _begun(run):
            raise UsageError(f"there is a run {name} already. Go on with it on its page, or choose another name.")
        if run.root.is_symlink() or _others(run.root):
            raise UsageError(f"{run.root} is there and is no run. Choose another name.")
        load_config(Config, config)  # what is wrong in it is told here, before anything is made
        return self._begin(run, "self-play", ["self-play", str(config.absolute()), "--run", str(run.root)])

    def resume(self, request: Request) -> Response:
        """Go on with a session that was stopped."""
        with self._site.ledger(request.path_params["run"]) as (run, _):
            if not run.config.is_file():
                raise UsageError("this run has no config, so there is nothing to go on with.")
        return self._begin(run, "self-play", ["self-play", str(run.config), "--run", str(run.root)])

    def stop(self, request: Request) -> Response:
        """Tell whoever holds the run to end, as Ctrl-C does."""
        name = request.path_params["run"]
        run = self._site.runs.open(name) or self.jobs.directory(name)
        if run is None:
            return self._site.missing("There is no such run.")
        job = self.jobs.of(name)
        pid = holder(run) or (job.process.pid if job and job.going else None)
        if pid is None:
            raise UsageError(f"{name} does not run, so there is nothing to stop.")
        if pid <= 0 or pid == os.getpid():
            raise UsageError("who has the run cannot be told from here. Stop it where it was started.")
        if (name, pid) in self._told:
            raise UsageError(f"process {pid} was told to stop before. It ends what must not be cut off; wait for it.")
        try:
            os.kill(pid, signal.SIGTERM if _ignores(pid, signal.SIGINT) else signal.SIGINT)
        except OSError as error:
            raise UsageError(f"process {pid} cannot be stopped from here: {error.strerror}.") from None
        self._told.add((name, pid))
        return self._site.to(self._site.links.place(name, "log"))

    def crown(self, request: Request) -> Response:
        """Promote a policy, or roll back to one, once the server has proved that it answers with it."""
        form, name = request.state.form, request.path_params["run"]
        act, number = form.get("act", ""), form.get("number", "")
        with self._site.ledger(name) as (run, _):
            known = {str(row["number"]): row["state"] for row in describe_policies(run.root)}
        if act not in ("promote", "rollback") or number not in known:
            raise UsageError(f"there is no policy {number[:20]!r} to make the champion. Use the buttons of the page.")
        if known[number] in (PolicyState.CHAMPION.value, PolicyState.DISCARDED.value):
            raise UsageError(f"policy-{number} is {known[number]}, so it cannot be made the champion.")
        return self._begin(run, act, ["policies", act, str(run.root), number])

    def log(self, request: Request) -> Response:
        """What commands printed, and what the server and the trainer did."""
        name = request.path_params["run"]
        names, chosen, shown = self._log(request)
        return self._site.page("log", title="Log", run=name, here="log", names=names, chosen=chosen, **shown)

    def tail(self, request: Request) -> Response:
        """The part of a log's page that changes."""
        return self._site.page("tail", **self._log(request)[2])

    def _log(self, request: Request) -> tuple[list[str], str, dict[str, Any]]:
        name, job = request.path_params["run"], self.jobs.of(request.path_params["run"])
        run = self._site.runs.open(name) or self.jobs.directory(name)
        found = sorted(run.logs.glob("*.log"), key=_when, reverse=True)[:_MOST_LOGS] if run else []
        names = [path.name for path in found if not path.is_symlink()]
        first = job.log.name if job else names[0] if names else ""
        chosen = asked if (asked := request.query_params.get("name", first)) in names else first
        mine = job if job and job.log.name == chosen else None
        text = _end_of(run.logs / chosen) if run and chosen in names else ""
        shown = {"text": text, "said": mine.said if mine else "", "going": mine is not None and mine.going}
        return names, chosen, shown

    def _begin(self, run: RunDir, what: str, arguments: list[str]) -> Response:
        job = self.jobs.begin(run, what, arguments)
        return self._site.to(self._site.links.place(run.root.name, "log", name=job.log.name))


def _ignores(pid: int, sign: signal.Signals) -> bool:
    """Whether a process ignores a signal, as those do that a script has put into the background."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    ignored = next((line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")), "0")
    return bool(int(ignored, 16) >> (sign - 1) & 1)


def _begun(run: RunDir) -> bool:
    """Whether there is a run. A session that could not be opened leaves an empty ledger, and binds nobody."""
    if not run.exists():
        return False
    with closing(Ledger(run.ledger)) as ledger:
        return run.config.exists() or ledger.count(RunRow) > 0


def _others(root: Path) -> bool:
    """Whether a directory holds something that no attempt to start a run has left there."""
    return root.exists() and (not root.is_dir() or any(path.name not in _SKELETON for path in root.iterdir()))


def _when(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _end_of(path: Path) -> str:
    """Return the end of a file as text, without what steers a terminal."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        text = file.read().decode("utf-8", "replace")
    shown = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return shown if size <= _TAIL else "… " + shown.partition("\n")[2]
