"""From a program and what it returned to a task: the text of the question, the private key, what cannot be guessed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from autotelic.core.words import Origin, Task
from autotelic.environments._code_programs import Program, Refused
from autotelic.environments._code_values import arguments_text

__all__ = ["Case", "Family", "Wish", "build_task", "proposal_json"]

Family = Literal["deduction", "abduction", "induction"]
SHOWN = 3
"""Examples an induction task shows."""
_HELD_OUT = 3
"""Fewest further examples that judge the answer."""


@dataclass(frozen=True)
class Wish:
    """A proposal that could be read: what it wants, before anything has run."""

    family: str
    program: Program
    inputs: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """Arguments and the canonical text of what the program returned for them."""

    arguments: tuple[Any, ...]
    output: str


def build_task(wish: Wish, cases: list[Case], *, seed: int, origin: Origin) -> Task:
    """Make the task; its first case is the one asked about.

    Raises:
        Refused: with reason `guessable` or `too_few_inputs`.
    """
    cases = list({arguments_text(c.arguments): c for c in cases}.values())
    _not_guessable(cases)
    question, key, answer = _PARTS[wish.family](wish, cases)
    return Task.make(
        environment="code",
        family=wish.family,
        question=question,
        key=key,
        difficulty=wish.program.level,
        answer=answer,
        seed=seed,
        origin=origin,
    )


def proposal_json(family: str, program: str, inputs: list[str]) -> str:
    """Write a proposal as the server's guided decoding does: without white space between the parts."""
    return json.dumps({"kind": family, "program": program, "inputs": inputs}, separators=(",", ":"))


def _not_guessable(cases: list[Case]) -> None:
    """Refuse outputs that say yes or no, and programs that return the same for most inputs."""
    if not cases:
        raise Refused("too_few_inputs", "it ran on no input")
    asked = cases[0].output
    if asked in ("True", "False", "None"):
        raise Refused("guessable", f"f({arguments_text(cases[0].arguments)}) is {asked}")
    commonest, count = Counter(c.output for c in cases).most_common(1)[0]
    if 2 * count > len(cases):
        raise Refused("guessable", f"{count} of {len(cases)} inputs give {commonest[:60]}")


def _deduction(wish: Wish, cases: list[Case]) -> tuple[str, dict[str, Any], str]:
    asked = arguments_text(cases[0].arguments)
    question = f"{wish.program.source}\n\nWhat does f({asked}) return?"
    return question, {"program": wish.program.source, "input": asked, "output": cases[0].output}, cases[0].output


def _abduction(wish: Wish, cases: list[Case]) -> tuple[str, dict[str, Any], str]:
    # The key leaves the input out: two inputs with one output are the same task.
    question = f"{wish.program.source}\n\nFor which arguments does f return {cases[0].output}?"
    key = {"program": wish.program.source, "output": cases[0].output}
    return question, key, arguments_text(cases[0].arguments)


def _induction(wish: Wish, cases: list[Case]) -> tuple[str, dict[str, Any], str]:
    if len(cases) < SHOWN + _HELD_OUT:
        raise Refused("too_few_inputs", f"it ran on {len(cases)} inputs; expected {SHOWN + _HELD_OUT}")
    shown = "\n".join(f"f({arguments_text(c.arguments)}) returns {c.output}" for c in cases[:SHOWN])
    key = {
        "program": wish.program.source,
        "inputs": [arguments_text(c.arguments) for c in cases],
        "outputs": [c.output for c in cases],
        "given": min(len(wish.inputs), SHOWN),
    }
    return f"{shown}\n\nWrite the Python function f.", key, wish.program.source


_PARTS = {"deduction": _deduction, "abduction": _abduction, "induction": _induction}
