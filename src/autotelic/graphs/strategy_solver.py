"""A strategy as the solver of rollouts: what it finds with many calls is trained as one answer to the bare prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from autotelic.agents import Attempt, Solver
from autotelic.core.errors import ServingError
from autotelic.core.seeds import derive
from autotelic.core.waiting import side_by_side
from autotelic.core.words import Completion, Message, Score, Task
from autotelic.environments import solved
from autotelic.graphs.session import Session
from autotelic.memory import Demonstration, Memory, Query
from autotelic.refinement import (
    Answer,
    Budget,
    Draft,
    Examples,
    Form,
    Meter,
    Strategy,
    Work,
    answer_task,
    build_strategy,
)
from autotelic.serving import TOO_LONG, Sampling
from autotelic.store import Ledger, PromptRow, RouteRow

__all__ = [
    "RefinedAttempt",
    "StrategySolver",
    "current_prompts",
    "current_routes",
    "examples_in",
    "first_score",
    "how_found",
    "proofs_on",
    "reached",
    "work_of",
]


@dataclass(frozen=True, kw_only=True)
class RefinedAttempt(Attempt):
    """An answer that a strategy found."""

    found: Answer
    """How it came to be, and its price."""
    first_score: Score
    """Of the first draft, where the answer is a revision."""

    @property
    def lessons(self) -> tuple[str, ...]:
        """Advice with which a wrong first draft became this right answer."""
        draft = self.found.draft
        mended = draft.first is not None and solved(self.score) and not solved(self.first_score)
        return draft.learned if mended else ()


class StrategySolver(Solver):
    """Answers tasks by a strategy; an attempt is its final answer, at the price of all its calls.

    What is trained is the bare prompt and the answer: what took many calls becomes what takes one.
    """

    def __init__(self, s: Session, strategy: str) -> None:
        super().__init__(s.server.gateway, s.environment)
        self._session = s
        self._strategy = build_strategy(strategy)

    async def attempt(self, task: Task, messages: Sequence[Message], sampling: Sampling) -> list[Attempt]:
        """Answer `sampling.n` times, each with a seed of its own, and judge each answer."""
        return await side_by_side(self._answer(task, messages, sampling, i) for i in range(sampling.n))

    async def _answer(self, task: Task, messages: Sequence[Message], sampling: Sampling, index: int) -> Attempt:
        work = work_of(self._session, task, messages, self._session.config.solve.budget)
        # What is learned from is checked anyway, so here a strategy may ask the checker too.
        seed = derive(sampling.seed or 0, "strategy", index)
        work = replace(work, temperature=sampling.temperature, seed=seed, may_check=True)
        found = await reached(self._strategy, work)
        completion = Completion(
            text=found.text or found.draft.text,
            finish_reason="stop",
            prompt_tokens=found.price.prompt_tokens,
            completion_tokens=found.price.completion_tokens,
            policy=self._gateway.policy,
        )
        asked = found.steps[0].messages if found.steps else None
        first = await first_score(self._environment, task, found.draft)
        attempt = partial(RefinedAttempt, completion, prompt=asked, found=found, first_score=first)
        if found.text is None:
            reason = "stopped" if found.stopped else "no_answer"
            return attempt(None, 0.0, TOO_LONG if found.stopped == TOO_LONG else reason)
        checked = await self._environment.check(task, found.text)
        return attempt(found.text, checked.score, checked.reason)


async def first_score(form: Form, task: Task, draft: Draft) -> Score:
    """Have the first draft of a revised answer checked; `None` where nothing was revised."""
    return None if draft.first is None else (await form.check(task, draft.first.answer)).score


def how_found(found: Answer) -> dict[str, Any]:
    """Return how an answer came to be and its price, as the ledger's rows have it."""
    return {
        "revised": found.draft.first is not None,
        "stopped": found.stopped,
        "calls": found.price.calls,
        "prompt_tokens": found.price.prompt_tokens,
        "cached_tokens": found.price.cached_tokens,
        "completion_tokens": found.price.completion_tokens,
        "seconds": found.price.seconds,
        "drafts": [one.model_dump(include={"by", "answer", "score", "certainty"}) for one in found.draft.of],
    }


async def reached(strategy: Strategy, work: Work, *, partly: bool = False) -> Answer:
    """Answer a task. For the ledger an answer is a failure if the model could not be reached on the way.

    Args:
        strategy: how.
        work: the task.
        partly: an answer that was cut short counts too, marked as `stopped`: for a person it is better than none.

    Raises:
        ServingError: the model could not be reached.
    """
    found = await answer_task(strategy, work)
    if found.lost and not (partly and found.text is not None):
        raise ServingError(found.stopped)
    return found


def examples_in(memory: Memory, query: Query, *, before_round: int | None = None) -> Examples:
    """Return what finds the turns of demonstrations in a memory, once for an answer.

    Args:
        memory: where it looks.
        query: for what.
        before_round: see `Memory.retrieve`.
    """
    known: dict[int, list[tuple[Message, ...]]] = {}

    async def find(k: int) -> list[tuple[Message, ...]]:
        if k not in known:
            [found] = await memory.retrieve([query], k, before_round=before_round)
            known[k] = [one.messages for one in found if isinstance(one, Demonstration)]
        return known[k]

    return find


def work_of(
    s: Session,
    task: Task,
    opening: Sequence[Message],
    budget: Budget | None = None,
    policy: int | None = None,
    before_round: int | None = None,
) -> Work:
    """Return the work of a task in a run, by the run's own settings.

    Args:
        s: the session.
        task: what is to be answered.
        opening: how it is put to the solver.
        budget: of the answer.
        policy: whose routes and prompts count; by default the one that is served.
        before_round: a strategy that looks into the memory sees what it held before this round; `None` is all of it.
    """
    asked = Query(task.question, task.id, task.environment, task.family, scopes=s.config.memory.scopes)
    owner = s.server.policy if policy is None else policy
    routes, prompts = current_routes(s.ledger, owner)[1], current_prompts(s.ledger, owner)
    return Work(
        task=task,
        form=s.environment,
        meter=Meter(s.server.gateway, budget),  # its clock starts here
        opening=tuple(opening),
        max_tokens=s.config.solve.max_tokens,
        seed=s.seed("strategy", task.id),
        toolbox=s.toolbox,
        bounds=s.config.solve.bounds,
        others=s.others,
        routes=routes,
        prompts={role: row.prompts for role, row in prompts.items()},
        examples=examples_in(s.memory, asked, before_round=before_round),
    )


def current_routes(ledger: Ledger, policy: int | None) -> tuple[int, dict[str, str]]:
    """Return version and routes (family to strategy) that were promoted for a policy; 0 and empty while none were.

    What was proved of one policy is not known of the next.
    """
    promoted = ledger.rows(RouteRow, promoted=True, policy=policy, order="version")
    return (promoted[-1].version, dict(promoted[-1].routes)) if promoted else (0, {})


def proofs_on(ledger: Ledger, policy: int, round: int) -> int:
    """Return how often routes or prompts of a policy were proved on the fresh suite of a round, or on a half of it."""
    tables: tuple[type[RouteRow | PromptRow], ...] = (RouteRow, PromptRow)
    rows = [row for table in tables for row in ledger.rows(table, policy=policy)]
    return sum(bool(row.evidence) and row.proved_on.split(",")[0] == f"fresh:{round}" for row in rows)


def current_prompts(ledger: Ledger, policy: int | None) -> dict[str, PromptRow]:
    """Return for each role the version of its prompts that was promoted last for a policy; nothing where none was."""
    return {row.role: row for row in ledger.rows(PromptRow, promoted=True, policy=policy, order="version")}
