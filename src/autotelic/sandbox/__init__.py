"""The room where model-written code runs: hostile by assumption, so behind namespaces, a system-call filter and limits.

`Sandbox.open()` takes a back end that has just passed its self-test, or fails. A program's value is its own claim: what
it is worth is decided outside, by `Outcome.value` against a text that never went in.
"""

from __future__ import annotations

from autotelic.sandbox._model import Limits, Outcome, Status
from autotelic.sandbox._sandbox import Sandbox
from autotelic.sandbox._values import canonical

__all__ = ["Limits", "Outcome", "Sandbox", "Status", "canonical"]
