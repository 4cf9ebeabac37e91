"""Who owns a memory: one process, and one object in it, by a lock that the kernel frees when the process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from autotelic.core.errors import StoreError

__all__ = ["own"]


def own(path: Path) -> int:
    """Take the owner's lock; return its descriptor, which is to be closed.

    Raises:
        StoreError: somebody has it.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(
            f"the memory in {path.parent} is open in process {owner}; it can have one owner, because a second writer "
            "loses results. Wait for that process or end it."
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock
