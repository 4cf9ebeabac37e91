"""What goes into curation and what comes out: plain frozen data, so that every gate is a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from pydantic import Field

from autotelic.core.words import Frozen, Role, TrainingExample, content_id

__all__ = ["Candidate", "Drop", "Gate", "Past", "by_worth"]


class Candidate(Frozen):
    """A row that could be trained on, with what the gates decide by."""

    id: str
    """The work item, e.g. the trajectory id: unique in a batch, even where two examples are equal."""
    example: TrainingExample
    """What would be trained on; its `family` and `role` count too."""
    task_id: str
    """Task behind it."""
    question: str
    """What says which task it is: the task's question for a solver, the proposed text for a proposer."""
    answer: str = ""
    """Its answer, empty where the question says it all."""
    gold: str | None = None
    """The right answer on record for its task, where there is one; `answer` may be another."""
    score: float | None = Field(ge=0, le=1)
    """Checker's score in [0, 1], `None` for no verdict."""
    solve_rate: float | None = Field(default=None, ge=0, le=1)
    """Share of the task's attempts that were right, `None` if not measured."""
    luck: float = Field(default=0.0, ge=0, le=1)
    """Probability that the task was solved so often without being read; see `luck`."""
    round: int = 0
    """Round it was made in."""


class Past(Frozen):
    """A row that was trained on before, or otherwise counts as known."""

    example_id: str
    """`TrainingExample.id`."""
    task_id: str
    """Task behind it."""
    question: str
    """As in `Candidate`."""
    answer: str = ""
    """As in `Candidate`."""
    role: Role = Role.SOLVER
    """Role that it trained."""


class Drop(Frozen):
    """Why a candidate is not kept."""

    item_id: str
    """`Candidate.id`."""
    reason: str
    """Short machine-readable reason."""
    detail: str = ""
    """One line for a person."""


class Gate(Protocol):
    """A selector that only drops."""

    def __call__(self, candidates: Sequence[Candidate], /) -> list[Drop]:
        """Return one drop, with a reason, for each candidate that must not be trained on."""


def by_worth(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Sort by what there is to learn, most first, whatever order they came in.

    That is p(1 - p) for solve rate p, the variance of the verdict; of two equals the harder task; what was not measured
    comes last; the rest by a hash, which favours nothing.
    """

    def worth(one: Candidate) -> tuple[float, float, str, str]:
        rate = one.solve_rate
        if rate is None:
            return (1.0, 1.0, content_id(one.id), one.id)
        # Rounded, or 0.3 and 0.7 would not be worth the same.
        return (round(-rate * (1 - rate), 9), rate, content_id(one.id), one.id)

    return sorted(candidates, key=worth)
