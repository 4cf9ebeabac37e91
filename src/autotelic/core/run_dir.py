"""A run is a directory: where its parts are, and who may write to it.

One process at a time owns a run. The lease is a kernel file lock, so that it ends with its holder, also by kill -9, and
a copied run carries no stale lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from autotelic.core.errors import AutotelicError, StoreError, UsageError

__all__ = ["MIN_FREE_GIB", "RunDir"]

MIN_FREE_GIB = 1.0
"""A run refuses to start a round with less free disk than this, GiB."""


class RunDir:
    """Paths inside a run's directory. Nothing is created until `create`."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._lock: IO[str] | None = None

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.root / "config.yaml"

    @property
    def ledger(self) -> Path:
        """The SQLite ledger."""
        return self.root / "ledger.sqlite"

    @property
    def checkpoints(self) -> Path:
        """LangGraph's checkpoints."""
        return self.root / "checkpoints.sqlite"

    @property
    def memory(self) -> Path:
        """Chroma and its truth."""
        return self.root / "memory"

    @property
    def logs(self) -> Path:
        """Log files of the server, the trainer and the run."""
        return self.root / "logs"

    def policy(self, number: int) -> Path:
        """Directory of policy `number`."""
        return self.root / "policies" / f"policy-{number}"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.ledger.exists()

    def create(self) -> RunDir:
        """Make the directory and its fixed sub-directories.

        Raises:
            UsageError: the path cannot be a directory that we may write to.
        """
        try:
            for path in (self.root, self.logs, self.memory, self.root / "policies"):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the run directory {self.root} cannot be made: {error}. Choose another with --run."
            ) from None
        return self

    def require(self) -> RunDir:
        """Return self if a run is here.

        Raises:
            UsageError: there is none.
        """
        if not self.exists():
            raise UsageError(
                f"there is no run in {self.root} (no ledger.sqlite). Start one with: autotelic self-play CONFIG"
            )
        return self

    def acquire(self) -> None:
        """Take the lease until this process ends or `release`.

        Raises:
            StoreError: another process holds it, or the directory cannot be written to.
        """
        try:
            handle = (self.root / "lock").open("a+")
        except OSError as error:
            raise StoreError(
                f"the run {self.root} cannot be locked: {error}. Make the directory and `lock` in it writable, or "
                "choose another directory."
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            handle.close()
            raise StoreError(
                f"the run {self.root} is in use by process {holder}. Wait for it, stop it, or choose another directory."
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        self._lock = handle

    def release(self) -> None:
        """Give the lease back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def held(self) -> Iterator[RunDir]:
        """Hold the lease, and have a disk that fills up meanwhile end in one clear error, whoever was writing.

        Raises:
            StoreError: the lease cannot be had, or there is no space left to write to.
        """
        self.acquire()
        try:
            yield self
        except AutotelicError:
            raise
        except Exception as error:
            if not _no_space(error):
                raise
            raise StoreError(
                f"the disk that holds {self.root} is full or fails ({error}). Free some space; nothing that was done "
                "is lost, and the same command then goes on where it stopped."
            ) from error
        finally:
            self.release()

    def free_gib(self) -> float:
        """Free disk space where the run lives, GiB."""
        return shutil.disk_usage(self.root).free / 2**30

    def require_space(self, gib: float = MIN_FREE_GIB) -> None:
        """Refuse to go on with a nearly full disk.

        Raises:
            StoreError: less than `gib` GiB are free.
        """
        free = self.free_gib()
        if free < gib:
            raise StoreError(
                f"{free:.2f} GiB are free in {self.root}, at least {gib:.2f} are needed. Free some space; "
                "the same command then goes on where it stopped."
            )


def _no_space(error: Exception) -> bool:
    """Whether a write failed for want of space: the system says so by number, databases inside libraries in words."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
    return any(words in str(error) for words in ("disk is full", "disk I/O error", "No space left"))
