"""Keeps a server and all its children from outliving their owner. Standard library only, run by file name.

Two small processes watch one process group. The *keeper* is the server's parent: it ends the group when the server
exits, when the owner closes the pipe on its standard input, or when the owner is gone. The *second* does nothing but
wait for the keeper: when that is killed, it ends the group. So the group dies whoever is killed first, also by kill
-9. What the server leaves in its temporary directory (vLLM: sockets, at every start) goes with it.

    python _supervisor.py GRACE_SECONDS COMMAND...
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import tempfile
import time

_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.5


def _alive(group: int) -> bool:
    """Reap what can be reaped and say whether the group still has members."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end(group: int, grace: float) -> None:
    """Ask the group to end, and after `grace` seconds kill it."""
    for sign, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, sign)
        while _alive(group) and time.monotonic() < deadline:
            time.sleep(0.02)


def _second(alive: int, group: int, ready: int, scratch: str) -> None:
    """Wait until the keeper's end of the pipe is closed, then end and remove whatever is left of the group."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.write(ready, b"1")
    os.close(ready)
    os.read(alive, 1)
    _end(group, 0.0)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def _start(command: list[str]) -> tuple[int, int]:
    """Start the second and the server; return the server's pid (also its group) and the keeper's end of the pipe."""
    scratch = tempfile.mkdtemp(prefix="autotelic-")
    alive_read, alive_write = os.pipe()
    go_read, go_write = os.pipe()
    # A request to end that comes between fork and exec must not meet our handler in the child and be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = os.fork()
    if server == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.close(go_write)
        os.close(alive_write)
        if os.read(go_read, 1) != b"1":
            os._exit(1)
        os.close(go_read)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.environ["TMPDIR"] = scratch
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]} cannot be started: {error}", file=sys.stderr, flush=True)
            os._exit(127)
    with contextlib.suppress(OSError):
        os.setpgid(server, server)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    ready_read, ready_write = os.pipe()
    if os.fork() == 0:
        for unused in (alive_write, go_write, go_read, ready_read):
            os.close(unused)
        _second(alive_read, server, ready_write, scratch)
    for unused in (alive_read, go_read, ready_write):
        os.close(unused)
    # The server starts only when the second is watching: there is no moment in which a kill leaves it alone.
    if os.read(ready_read, 1) == b"1":
        os.write(go_write, b"1")
    os.close(ready_read)
    os.close(go_write)
    return server, alive_write


def main(argv: list[str]) -> int:
    """Run the command until it exits or its owner is gone; return its exit status (128 + signal)."""
    grace, command = float(argv[0]), argv[1:]
    owner = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stop_read, stop_write = os.pipe()
    os.set_blocking(stop_write, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(stop_write, warn_on_full_buffer=False)
    server, _alive_write = _start(command)
    status: int | None = None
    while status is None:
        ready, _, _ = select.select([0, stop_read], [], [], _POLL_SECONDS)
        told = stop_read in ready and signal.SIGTERM in os.read(stop_read, 64)
        pid, code = os.waitpid(server, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(code)
        elif told or os.getppid() != owner or (0 in ready and not os.read(0, 1)):
            status = 0
    _end(server, grace)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
