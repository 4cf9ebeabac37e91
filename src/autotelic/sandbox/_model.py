"""What a caller asks of the sandbox and what comes back, as frozen data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autotelic.core.words import Frozen

__all__ = ["Limits", "Outcome", "Status"]

Status = Literal["ok", "error", "timeout", "memory", "output", "crashed", "refused"]


class Limits(Frozen):
    """What one program may use."""

    seconds: float = Field(default=2.0, gt=0, le=3600)
    """Wall-clock seconds; also bounds the CPU seconds of each process."""
    memory: int = Field(default=256, ge=48)
    """MiB of address space of each process, and MiB of resident memory of all of them together."""
    processes: int = Field(default=16, ge=0, le=512)
    """Processes and threads beyond the program's first."""
    output: int = Field(default=65_536, ge=256, le=16_777_216)
    """Bytes of standard output, and separately of the value."""
    files: int = Field(default=16_777_216, ge=4096)
    """Bytes of all files together. The tmpfs is sized when the sandbox opens; a later call can only lower it."""


class Outcome(Frozen):
    """What one program did. Everything in it but `status`, `seconds` and `backend` is the program's own word."""

    status: Status
    """`ok`; `error`: it raised; `timeout`, `memory`, `output`: it broke a limit; `crashed`: it ended without giving a
    result, or tampered with the result channel; `refused`: it was not run, `error` says why."""
    value: str | None = None
    """Canonical `repr` of the result (sets and dicts sorted): equal values have equal text, whatever the hash seed."""
    stdout: str = ""
    """Standard output, cut at the limit."""
    error: str = ""
    """One line, e.g. `ZeroDivisionError: division by zero`; empty if `ok`."""
    seconds: float = 0.0
    """Wall-clock seconds from the start of the program to its end, measured outside it."""
    backend: str = ""
    """Back end that ran it."""
