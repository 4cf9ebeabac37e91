"""Model optimization: the nodes `train` and `deliver`.

A policy's number is fixed before its training starts and is never given to other weights: once its card is written it
stands, and a training that was killed leaves nothing under that name.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from langgraph.types import interrupt

from autotelic.core.errors import UsageError
from autotelic.core.words import PolicyState, Role, TrainingExample
from autotelic.graphs.acquire import messages_of
from autotelic.graphs.oversight import decided
from autotelic.graphs.session import Session
from autotelic.serving import Indistinguishable
from autotelic.store import ExampleRow, FeedbackRow, PolicyRow
from autotelic.training import MAX_LENGTH, TrainingJob, TrainingResult, TrainingStep, write_examples

__all__ = ["deliver", "may_train", "next_number", "train", "trained"]


def may_train(s: Session, round: int, ask: Callable[[dict[str, Any]], Any] = interrupt) -> bool:
    """Whether a training on the round's examples may start: what a person decided, if the config wants one asked."""
    if "training" not in s.config.oversight:
        return True
    rows = Counter((row.role, row.origin) for row in s.ledger.rows(ExampleRow, round=round))
    reasons = [f"{role}, {origin}: {count}" for (role, origin), count in sorted(rows.items())]
    question = {"ask": f"train on {rows.total()} examples of round {round}?", "reasons": reasons}
    return decided(s.ledger, "training", f"round-{round}", question, ask)


async def train(s: Session, round: int, champion: int) -> dict[str, Any]:
    """Train a candidate from the champion on the round's curated examples.

    Raises:
        UsageError: there is nothing to train on, or nothing of what people said.
    """
    made = s.ledger.rows(PolicyRow, round=round)
    if round and made:
        return {"candidate": made[0].number, "finished_at": None}
    number = next_number(s)
    rows = s.ledger.rows(ExampleRow, round=round, order="position")
    s.run.require_space()
    said = {row.id: row.rejected for row in s.ledger.rows(FeedbackRow)}
    how = s.config.train if all(row.origin != "said" for row in rows) else s.config.feedback
    job = TrainingJob(
        method=how.method,
        base=str(s.policy(champion).path),
        out=str(s.run.policy(number)),
        number=number,
        parent=champion,
        examples=str(write_examples(s.run.root / "policies" / f"round-{round}.examples.jsonl", _examples(rows, said))),
        config=how.settings,
        plugins=s.config.plugins,
        seed=s.seed("train", round),
    )
    result = await trained(s, job, "train")
    await _require_said(rows, result, job)
    s.ledger.add(
        [
            PolicyRow(
                number=number,
                parent=champion,
                round=round,
                state=PolicyState.CANDIDATE.value,
                path=str(s.run.policy(number).relative_to(s.run.root)),
                sha256=result.sha256,
                method=how.method,
                card=result.model_dump(mode="json", exclude={"canary"}),
            )
        ]
    )
    return {"candidate": number, "finished_at": result.finished_at}


async def _require_said(rows: Iterable[ExampleRow], result: TrainingResult, job: TrainingJob) -> None:
    """Throw a training for what people said away that left all of it out: nobody wants replay alone to be judged.

    Raises:
        UsageError: every row of it is too long.
    """
    said = {row.id for row in rows if row.origin == "said"}
    if said and said <= set(result.skipped):
        await asyncio.to_thread(shutil.rmtree, job.out, ignore_errors=True)
        longest = job.config.get("max_length", MAX_LENGTH)
        raise UsageError(
            f"each of the {len(said)} answers that people gave is longer with its chat than max_length ({longest} "
            "tokens), so none was trained on. Raise max_length in feedback.settings, or teach in shorter chats."
        )


async def deliver(s: Session, champion: int, candidate: int, finished_at: float | None) -> dict[str, Any]:
    """Load the candidate into the server and prove it; how long that took since training ended is in the ledger.

    A candidate that cannot be told from the champion is reported as `unchanged`, with the reason.
    """
    if not s.server.running:
        # In a new process: half of the proof is the difference to the champion, and training ended long ago.
        await s.serve(champion)
        finished_at = None
    try:
        await s.serve(candidate, "train", finished_at=finished_at)
    except Indistinguishable as error:
        # No failure of the server's: the gate refuses the candidate and has the champion served again.
        return {"policy": candidate, "unchanged": str(error)}
    return {"policy": candidate}


def next_number(s: Session) -> int:
    """Return the number for the next policy: one more than the highest there ever was."""
    numbers: list[int] = s.ledger.column(PolicyRow, "number")
    return max(numbers) + 1


def _examples(rows: Iterable[ExampleRow], rejected: Mapping[str, str | None]) -> Iterator[TrainingExample]:
    for row in rows:
        yield TrainingExample(
            id=row.id,
            role=Role(row.role),
            messages=messages_of(row.messages),
            tools=tuple(row.tools),
            turns=messages_of(row.turns),
            completion=row.completion,
            rejected=rejected.get(row.task_id) or "",
            family=row.family,
            source=row.source,
            weight=row.weight,
        )


async def trained(s: Session, job: TrainingJob, name: str) -> TrainingResult:
    """Run a training, its steps shown under a name; beside it the server is asked for one half of the coming proof."""
    asked: list[asyncio.Task[None]] = []

    def report(step: TrainingStep) -> None:
        if step.step == 1:
            s.progress.start(name, step.steps)
        s.progress.advance(name)
        s.keep_time()

    s.progress.start(name)
    try:
        return await s.trainer.train(
            job, report, lambda token_ids: asked.append(asyncio.create_task(s.server.foresee((token_ids,))))
        )
    finally:
        for task in asked:
            task.cancel()  # done long ago, or it waits for something that the delivery will wait for too
        await asyncio.gather(*asked, return_exceptions=True)
        s.progress.stop(name)
