"""An environment of your own: tasks, a checker that can be trusted, and a grammar for the proposer.

    autotelic self-play examples/roman.yaml

The config names this file under `plugins`. An installed package offers the same class through the entry point group
`autotelic.environment` instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import autotelic
from autotelic.core.errors import EnvironmentFailure
from autotelic.core.words import Message, Origin, Proposal, Rejection, Task
from autotelic.environments import Checked, plain_answer

NUMERALS = {
    1000: "M",
    900: "CM",
    500: "D",
    400: "CD",
    100: "C",
    90: "XC",
    50: "L",
    40: "XL",
    10: "X",
    9: "IX",
    5: "V",
    4: "IV",
    1: "I",
}
BOUNDS = (20, 100, 500, 3000)  # largest number of a difficulty


def roman(number: int) -> str:
    """Write a number as a Roman numeral."""
    text = ""
    for value, numeral in NUMERALS.items():
        text += numeral * (number // value)
        number %= value
    return text


@autotelic.register("environment", "roman")
class Roman:
    """Numbers to Roman numerals (`write`) and back (`read`)."""

    name = "roman"
    families = ["read", "write"]  # noqa: RUF012 (the protocol's shape)
    sandbox: str | None = None  # no model-written code runs here

    def __init__(self, config: Mapping[str, Any], *, sandbox: str = "auto") -> None: ...

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    def tasks(self, n: int, seed: int, difficulty: int | None = None) -> list[Task]:
        """Draw different tasks, the same ones for the same arguments."""
        rng, found = Random(seed), dict[str, Task]()
        for _ in range(50 * n):
            if len(found) == n:
                return list(found.values())
            level = rng.randrange(len(BOUNDS)) if difficulty is None else min(difficulty, len(BOUNDS) - 1)
            family = self.families[len(found) % 2]
            task = self._task(family, level, rng.randint(1, BOUNDS[level]), Origin.SUITE)
            found.setdefault(task.id, task)
        raise EnvironmentFailure(f"roman has {len(found)} tasks to offer at this difficulty, {n} were asked for.")

    def tools(self, task: Task) -> list[Any]:
        return []

    def system_prompt(self, task: Task) -> str:
        return "Reply with the answer only: " + ("one whole number." if task.family == "read" else "a Roman numeral.")

    def parse(self, task: Task, text: str) -> str | None:
        return plain_answer(text)

    async def check(self, task: Task, answer: str | None) -> Checked:
        """Compare with the truth, which was computed when the task was made."""
        return Checked.of(float((answer or "").strip().upper() == json.loads(task.key)["answer"]))

    def proposal_prompt(self, rng: Random, demonstrations: int = 3) -> list[Message]:
        ask = Message(role="user", content="Write one exercise about Roman numerals: family and number.")
        system = Message(role="system", content="You write exercises. Reply with one JSON object.")
        shown = [
            self._task(rng.choice(self.families), 0, rng.randint(1, 10), Origin.SUITE) for _ in range(demonstrations)
        ]
        turns = [m for t in shown for m in (ask, Message(role="assistant", content=self.proposal_text(t)))]
        return [system, *turns, ask]

    def proposal_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {
                "family": {"enum": self.families},
                "number": {"type": "integer", "minimum": 1, "maximum": BOUNDS[-1]},
            },
            "required": ["family", "number"],
            "additionalProperties": False,
        }

    def proposal_text(self, task: Task) -> str:
        wish = {"family": task.family, "number": task.seed}
        return json.dumps(wish, separators=(",", ":"))

    async def validate(self, proposal: Proposal) -> Task | Rejection:
        """The truth comes from computing it, never from the proposer."""
        try:
            wish = json.loads(proposal.text)
            family, number = wish["family"], int(wish["number"])
        except (ValueError, KeyError, TypeError) as error:
            return Rejection(reason="malformed", detail=str(error))
        if family not in self.families or not 1 <= number <= BOUNDS[-1]:
            return Rejection(reason="out_of_bounds", detail=proposal.text)
        level = next(level for level, bound in enumerate(BOUNDS) if number <= bound)
        return self._task(family, level, number, proposal.origin)

    def _task(self, family: str, level: int, number: int, origin: Origin) -> Task:
        if family == "write":
            question, answer = f"Write {number} as a Roman numeral.", roman(number)
        else:
            question, answer = f"Which number is the Roman numeral {roman(number)}?", str(number)
        key = {"answer": answer}
        return Task.make(
            environment=self.name, family=family, question=question, key=key,
            difficulty=level, answer=answer, seed=number, origin=origin,
        )  # fmt: skip
