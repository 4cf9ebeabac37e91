"""The error model: an exception's class says who has to act, its message says what to do.

A *failed item* (a malformed proposal, an answer cut off, code that crashed) is not an exception: it is a record with a
reason. What is raised here stops a command, and every message has three parts: what happened, with the value; what was
expected; what to do.
"""

from __future__ import annotations

__all__ = [
    "AutotelicError",
    "DeliveryError",
    "EnvironmentFailure",
    "MissingPackage",
    "ModelRetry",
    "SandboxError",
    "ServingError",
    "StoreError",
    "TrainingError",
    "UsageError",
    "Waiting",
]


class AutotelicError(Exception):
    """Root of everything Autotelic raises on purpose. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(AutotelicError):
    """The user has to act: a wrong key, a missing file, a config that cannot work."""

    exit_code = 2


class Waiting(UsageError):
    """A person has to decide first; the message says how."""

    exit_code = 3


class MissingPackage(UsageError):
    """An optional package is not installed; the message holds the exact install line."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed, and this needs it. Install it with: pip install 'autotelic[{extra}]'"
        )


class ModelRetry(AutotelicError):
    """The model may try again: its output broke a rule that it has been told."""


class EnvironmentFailure(AutotelicError):
    """An environment could not do its work (not: a wrong answer)."""


class SandboxError(AutotelicError):
    """No sandbox that passes its self-test is available, or one died in a way that is not the candidate's doing."""


class ServingError(AutotelicError):
    """The model server did not start, stopped answering, or refused; the message ends with the tail of its log."""


class DeliveryError(ServingError):
    """The server could not be shown to serve the policy it was told to serve. The run must stop."""


class TrainingError(AutotelicError):
    """The trainer process failed; the champion is untouched and the run can be resumed."""


class StoreError(AutotelicError):
    """The ledger or a run directory is missing, locked by another process, or cannot be written."""
