"""Test-time training of a run's policy: trained for the tasks of a suite, delivered and proved, and thrown away after.

The policy gets the next number, so that a number still means one set of weights; the ledger keeps its card, its state
is `discarded`, and its files are gone when the tasks are answered. What was cut off is begun again.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from autotelic.agents import Solver
from autotelic.core.words import Message, PolicyState, Role, Task, TrainingExample, content_id
from autotelic.graphs.acquire import clean_of_suites
from autotelic.graphs.learning import next_number, trained
from autotelic.graphs.session import Session
from autotelic.graphs.strategy_solver import reached, work_of
from autotelic.memory import Demonstration, Query
from autotelic.refinement import Adapting, Budget, Price, Strategy, self_consistency
from autotelic.serving import Indistinguishable
from autotelic.store import PolicyRow
from autotelic.training import TrainingJob, read_policy, write_examples

__all__ = ["Prepared", "prepared"]


@dataclass
class Prepared:
    """What was done before the answers."""

    strategy: Strategy
    """Answers the tasks."""
    policy: int
    """Number of the policy that answers: one made for the tasks, or that which was there if nothing was learned."""
    stopped: str = ""
    """Why nothing was learned."""
    seconds: float = 0.0
    """Of votes, training and delivery."""
    prices: dict[str, Price] = field(default_factory=dict)
    """What voting on a task cost, by its id."""


@asynccontextmanager
async def prepared(
    s: Session, strategy: Strategy, tasks: Sequence[Task], policy: int, before_round: int | None = None
) -> AsyncIterator[Prepared]:
    """Serve what a strategy answers with: the policy, or for `adapted` one trained for the tasks while the block lasts.

    Args:
        s: the session.
        strategy: how the tasks are to be answered.
        tasks: all of them.
        policy: number of the policy.
        before_round: neighbours come from what the memory held before this round; `None` is all of it.

    Raises:
        TrainingError: the trainer failed.
        DeliveryError: the new policy could not be proved.
    """
    await s.serve(policy)
    if not isinstance(strategy, Adapting):
        yield Prepared(strategy, policy)
        return
    began, how, made = time.monotonic(), strategy, Prepared(strategy.inner, policy)
    if how.by == "neighbours":
        rows = await _neighbours(s, how, tasks, before_round)
    else:
        rows = await _votes(s, how, tasks, made.prices)
    left = how.seconds - (time.monotonic() - began)
    place = s.run.root / "policies" / "adapted"
    try:
        if not rows:
            made.stopped = "nothing to train on"
        elif left <= 0:
            made.stopped = "seconds"
        else:
            await _train(s, how, rows, policy, place, left, made)
        made.seconds = time.monotonic() - began
        yield made
    finally:
        try:
            if made.policy != policy:
                await s.serve(policy)
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


async def _train(
    s: Session, how: Adapting, rows: Sequence[TrainingExample], policy: int, place: Path, left: float, made: Prepared
) -> None:
    """Train and deliver; what cannot be told from the policy before is left out."""
    await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)  # of a process that was killed
    s.run.require_space()
    number, out = next_number(s), place / "policy"
    settings = s.config.train.settings if s.config.train.method == "sft" else {}
    place.mkdir(parents=True)
    job = TrainingJob(
        method="sft",
        base=str(s.policy(policy).path),
        out=str(out),
        number=number,
        parent=policy,
        examples=str(write_examples(place / "examples.jsonl", rows)),
        config={**settings, "epochs": how.epochs, "seconds": left},
        plugins=s.config.plugins,
        seed=s.seed("adapted", policy, *sorted(row.id for row in rows)),
    )
    result = await trained(s, job, "adapt")
    card = result.model_dump(mode="json", exclude={"canary"}) | {"by": how.by, "examples": [row.id for row in rows]}
    s.ledger.add(
        [
            PolicyRow(
                number=number,
                parent=policy,
                round=0,
                state=PolicyState.DISCARDED.value,
                path=str(out.relative_to(s.run.root)),
                sha256=result.sha256,
                method="sft",
                card=card,
            )
        ]
    )
    try:
        files = await asyncio.to_thread(read_policy, out)
        await s.server.deliver(files, kind="train", finished_at=result.finished_at)
        made.policy = number
    except Indistinguishable:
        made.stopped = "nothing was learned"
        await s.serve(policy)


async def _neighbours(
    s: Session, how: Adapting, tasks: Sequence[Task], before_round: int | None
) -> list[TrainingExample]:
    """Return the solved examples in memory that are nearest to the tasks, each once, asked as the tasks will be.

    What is in a suite, or near to it, is left out: memory may have been imported from another run.
    """
    scopes = s.config.memory.scopes
    queries = [Query(t.question, t.id, t.environment, t.family, kinds=("demonstration",), scopes=scopes) for t in tasks]
    near = {
        one.id: one
        for items in await s.memory.retrieve(queries, how.k, before_round=before_round)
        for one in items
        if isinstance(one, Demonstration)
    }
    solved = s.ledger.tasks(one.task_id for one in near.values())
    clean = {task.id for task in clean_of_suites(s, list(solved.values()))}
    return [
        _example(
            (Message(role="system", content=s.environment.system_prompt(solved[one.task_id])), *one.messages[:-1]),
            one.messages[-1].content,
            solved[one.task_id],
        )
        for _, one in sorted(near.items())
        if one.task_id in clean
    ]


async def _votes(s: Session, how: Adapting, tasks: Sequence[Task], prices: dict[str, Price]) -> list[TrainingExample]:
    """Return for each task on which the policy's samples agree the prompt and what they agree on."""
    solver, ends = Solver(s.server.gateway, s.environment), time.monotonic() + how.seconds
    vote = self_consistency(n=how.n, batch=how.n)
    rows: dict[str, TrainingExample] = {}

    async def sample(task: Task) -> None:
        opening = solver.messages(task)
        work = work_of(s, task, opening, Budget(seconds=max(0.001, ends - time.monotonic())))
        found = await reached(vote, replace(work, seed=s.seed("vote", task.id)))
        prices[task.id] = found.price
        if not found.stopped and found.text is not None and (found.draft.score or 0.0) >= how.agreement:
            rows[task.id] = _example(opening, found.draft.text, task)

    await s.each("vote", list(tasks), sample)
    return [rows[task.id] for task in tasks if task.id in rows]


def _example(messages: Sequence[Message], completion: str, task: Task) -> TrainingExample:
    return TrainingExample(
        id=content_id("adapted", task.id, completion),
        role=Role.SOLVER,
        messages=tuple(messages),
        completion=completion,
        family=task.family,
        source=task.id,
    )
