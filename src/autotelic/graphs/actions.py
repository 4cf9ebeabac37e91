"""What the commands do with a run: measure, train once more, describe, crown, ask.

Whatever writes takes the run's lease and opens the same session as self-play, so no command has a second way to do a
thing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotelic.core.config import load_config
from autotelic.core.errors import UsageError
from autotelic.core.progress import Progress
from autotelic.core.run_dir import RunDir
from autotelic.core.words import PolicyState, Task
from autotelic.evaluation import accuracy, answers, constant_baselines, overall_baseline
from autotelic.graphs.config import Config
from autotelic.graphs.curation import curate_feedback
from autotelic.graphs.evaluating import answer_suite, evaluate, fresh_suite, gate
from autotelic.graphs.learning import deliver, may_train, train
from autotelic.graphs.session import Session, open_session
from autotelic.store import (
    ApprovalRow,
    CurationRow,
    DeliveryRow,
    EvaluationRow,
    ExampleRow,
    FeedbackRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    RunRow,
    SuiteRow,
)

__all__ = [
    "Asked",
    "crown",
    "describe_policies",
    "describe_policy",
    "evaluate_policy",
    "opened_suite",
    "train_candidate",
]


@asynccontextmanager
async def _session(run: Path, progress: Progress, others: Sequence[str] = ()) -> AsyncIterator[Session]:
    """The session of an existing run, under its lease; `others` speak instead of those of its config."""
    with RunDir(run).require().held() as directory:
        config = load_config(Config, directory.config)
        if others:
            config = config.model_copy(update={"solve": config.solve.model_copy(update={"others": tuple(others)})})
        async with open_session(config, directory, progress) as session:
            yield session


def _ledger(run: Path) -> Ledger:
    return Ledger(RunDir(run).require().ledger)


@dataclass(frozen=True)
class Asked:
    """A suite of a run and who is to answer it."""

    suite: str
    """Its name."""
    round: int
    """Its round, 0 for the suites that stay the same."""
    tasks: list[Task]
    """Its tasks."""
    policy: int
    """Number of the policy."""
    memory_of: int | None
    """Round before which the memory is looked at, `None` for no memory."""


@asynccontextmanager
async def opened_suite(
    run: Path, suite: str, policy: int | None, *, memory: bool, progress: Progress, others: Sequence[str] = ()
) -> AsyncIterator[tuple[Session, Asked]]:
    """Open a run's session and find a suite: `frozen`, or `fresh:ROUND`; the champion answers if no policy is given.

    Args:
        run: directory of the run.
        suite: which one.
        policy: number of who answers.
        memory: whether the memory helps.
        progress: shows how far it is.
        others: see `SolveConfig.others`; by default the run's own.

    Raises:
        UsageError: the run has no such suite or policy, or the sealed suite is not open yet.
    """
    name, _, number = suite.partition(":")
    round = int(number) if number.isdecimal() else 0
    async with _session(run, progress, others) as s:
        tasks = s.ledger.suite(name, round=round)
        if not tasks:
            known = {(r.suite, r.round) for r in s.ledger.rows(SuiteRow) if r.suite != "sealed" or _finished(s.ledger)}
            have = ", ".join(f"{n}:{r}" if r else n for n, r in sorted(known))
            raise UsageError(f"the run has no suite {suite!r}. It has: {have or 'none yet'}.")
        if name == "sealed" and not _finished(s.ledger):
            raise UsageError("the sealed suite is opened once, when the run has ended. Finish the run first.")
        chosen = s.ledger.champion().number if policy is None else _known(s.ledger, policy).number
        # As of now, for suites that do not change; as of the round, for those that do.
        as_of = (round or _last_round(s.ledger) + 1) if memory else None
        yield s, Asked(name, round, tasks, chosen, as_of)


async def evaluate_policy(
    run: Path, policy: int | None, suite: str, *, memory: bool, progress: Progress
) -> dict[str, Any]:
    """Have a policy answer a suite as far as it has not, and return its accuracy, by family too.

    Raises:
        UsageError: the run has no such suite or policy, or the sealed suite is not open yet.
    """
    async with opened_suite(run, suite, policy, memory=memory, progress=progress) as (s, asked):
        rows = await answer_suite(s, asked.suite, asked.round, asked.policy, memory_of=asked.memory_of)  # type: ignore[arg-type]
    constants = {c.family: c for c in constant_baselines(asked.tasks)}
    total = accuracy(rows)
    return {
        "policy": asked.policy,
        "suite": suite,
        "memory": memory,
        "accuracy": total.model_dump() if total else None,
        "constant": overall_baseline(list(constants.values())),
        "families": [
            {
                "family": family,
                "accuracy": found.model_dump() if (found := accuracy(r for r in rows if r.family == family)) else None,
                "constant": constants[family].model_dump() if family in constants else None,
            }
            for family in sorted({r.family for r in rows})
        ],
    }


async def train_candidate(
    run: Path, round: int | None, *, progress: Progress, approve: bool | None = None, feedback: bool = False
) -> dict[str, Any]:
    """Train one more candidate from the champion on curated rows; prove, measure and gate it as a new round.

    A round that was begun so and cut off is finished first. Where a person is asked and has not answered, what comes
    back has `waiting`, the question; the same call with an answer goes on from there. An answer is for one question:
    who approves a training has not seen what it comes to.

    Args:
        run: directory of a run that has ended.
        round: whose rows, by default the last round's that has some of its own: what people said is not among them.
        progress: shows how far it is.
        approve: the person's answer.
        feedback: train on what people said in chats instead; the candidate must not fall, and a person decides.

    Raises:
        UsageError: the run has not ended, or there is nothing to train on, or all of it was taken back meanwhile.
    """
    async with _session(run, progress) as s:
        if not _finished(s.ledger):
            raise UsageError(f"the run {run} has not ended. Finish it first: autotelic self-play CONFIG --run {run}")
        champion = s.ledger.champion().number
        cut_off = _cut_off(s.ledger)
        new = s.round = cut_off or (await _said(s, champion) if feedback else _copy_examples(s.ledger, round))
        _leave_out_withdrawn(s, new)
        wanted, ask = bool(s.ledger.count(ExampleRow, round=new, origin="said")), _answer(approve)
        try:
            if not may_train(s, new, ask):
                return {
                    "round": new,
                    "candidate": None,
                    "promoted": False,
                    "reasons": ["a person refused the training"],
                }
            await fresh_suite(s, new)
            made = await _made(s, new, champion)
            delivered = await deliver(s, champion, made["candidate"], made["finished_at"])
            s.note("deliver", delivered)
            if "unchanged" not in delivered:
                await evaluate(s, new, champion, made["candidate"])
            await gate(s, new, champion, made["candidate"], ask, wanted=wanted)
        except _Waiting as waiting:
            return {"round": new, "waiting": waiting.question}
        decided = s.ledger.get(GateRow, new)
    assert decided is not None, "the gate writes its row"
    return {"round": new, **decided.model_dump(include={"candidate", "promoted", "reasons"})}


def _cut_off(ledger: Ledger) -> int | None:
    """The round of an earlier `train_candidate` that did not come to its end."""
    begun = set(ledger.column(ExampleRow, "round")) - set(ledger.column(NodeRow, "round", node="curate"))
    refused = set(ledger.column(ApprovalRow, "subject", kind="training", answer=False))
    left = {row.round for row in ledger.rows(NodeRow, node="train") if _LEFT in row.detail}
    # The gate's row comes before the crowning: as long as its candidate is one, the round has not come to its end.
    undone = set(ledger.column(PolicyRow, "number", state=PolicyState.CANDIDATE.value))
    gated = {row.round for row in ledger.rows(GateRow) if row.candidate not in undone}
    ended = {*gated, *left, *(round for round in begun if f"round-{round}" in refused)}
    return max(begun - ended, default=None)


def _leave_out_withdrawn(s: Session, round: int) -> None:
    """Delete from a round that is not trained yet what people said and have taken back or changed since.

    Raises:
        UsageError: nothing of it is left.
    """
    said = s.ledger.rows(ExampleRow, round=round, origin="said")
    if not said or s.ledger.count(PolicyRow, round=round):
        return
    stands = set(s.ledger.columns(FeedbackRow, "id", "chosen"))
    gone = [row.id for row in said if (row.task_id, row.completion) not in stands]
    if len(gone) == len(said):
        s.note("train", {_LEFT: "what was said was taken back"})  # first: without it the rest would be trained alone
    if gone:
        s.ledger.replace(ExampleRow, [], round=round, id=gone)
    if len(gone) == len(said):
        raise UsageError(
            f"all that round {round} was to train on was taken back, so it ends here and nothing was trained. "
            "The same command begins a new round."
        )


async def _made(s: Session, round: int, champion: int) -> dict[str, Any]:
    """Train; a round whose rows cannot be trained on is left, or it would be in the way of every later one."""
    try:
        return await train(s, round, champion)
    except UsageError as error:
        s.note("train", {_LEFT: str(error)})
        raise


_LEFT = "left"
"""In the detail of a round's training: why the round is not gone on with."""


async def _said(s: Session, champion: int) -> int:
    """Make what people said the rows of a new round, and return its number.

    The fresh suite is drawn first: what is near one of its tasks must not be trained on.
    """
    new = _next_round(s.ledger)
    if s.ledger.count(FeedbackRow):
        await fresh_suite(s, new)
    if not curate_feedback(s, new, champion):
        raise UsageError(
            "nobody has said anything that may be trained on. Accept or edit answers in `autotelic chat --learn --run "
            f"{s.run.root}`."
        )
    return new


def _copy_examples(ledger: Ledger, round: int | None) -> int:
    """Make the curated rows of a round those of a new one, and return its number.

    Not those of a round of what people said, which is theirs to take back: it is made anew from what stands.
    """
    have = sorted(set(ledger.column(ExampleRow, "round", origin=["new", "carried"])))
    source = have[-1] if round is None and have else round
    if source not in have:
        raise UsageError(f"round {source} has no curated data. Rounds that have: {have or 'none'}.")
    new = _next_round(ledger)
    rows = ledger.rows(ExampleRow, round=source, order="position")
    ledger.add(ExampleRow(**{**row.model_dump(), "round": new}) for row in rows)
    return new


class _Waiting(Exception):
    def __init__(self, question: dict[str, Any]) -> None:
        super().__init__(question)
        self.question = question


def _answer(approve: bool | None) -> Callable[[dict[str, Any]], bool]:
    given = [] if approve is None else [approve]

    def ask(question: dict[str, Any]) -> bool:
        if not given:
            raise _Waiting(question)
        return given.pop()

    return ask


def describe_policies(run: Path) -> list[dict[str, Any]]:
    """Return one row for every policy of a run, with its accuracy on the frozen suite where that was measured."""
    ledger = _ledger(run)
    try:
        return [_describe(ledger, row) for row in ledger.rows(PolicyRow, order="number")]
    finally:
        ledger.close()


def describe_policy(run: Path, number: int) -> dict[str, Any]:
    """Return all that the ledger knows about one policy."""
    ledger = _ledger(run)
    try:
        row = _known(ledger, number)
        return {
            **_describe(ledger, row),
            "card": row.card,
            "path": str(RunDir(run).root / row.path),
            "deliveries": [d.model_dump() for d in ledger.rows(DeliveryRow, policy=number, order="id")],
            "gate": [g.model_dump() for g in ledger.rows(GateRow, candidate=number)],
        }
    finally:
        ledger.close()


async def crown(run: Path, number: int | None, *, kind: str, progress: Progress) -> dict[str, Any]:
    """Make a policy the champion once the server has proved that it answers with it.

    Args:
        run: directory of the run.
        number: which; `None` is the champion's parent.
        kind: `switch` or `rollback`, for the record.
        progress: shows how far it is.
    """
    async with _session(run, progress) as s:
        old = s.ledger.champion()
        target = old.parent if number is None else number
        if target is None:
            raise UsageError(f"policy-{old.number} is the base: there is nothing to roll back to.")
        _known(s.ledger, target)
        await s.serve(old.number)
        await s.serve(target, "rollback" if kind == "rollback" else "switch")
        s.ledger.crown(target)
        proof = s.ledger.rows(DeliveryRow, policy=target, order="id")[-1]
    return {"champion": target, "before": old.number, "proof": proof.model_dump(include=_PROOF)}


_PROOF = {"to_trainer", "to_trainer_mean", "to_previous", "to_previous_mean", "seconds"}


def _describe(ledger: Ledger, row: PolicyRow) -> dict[str, Any]:
    frozen = accuracy(answers(ledger, "frozen", 0, row.number).values())
    shown = row.model_dump(include={"number", "state", "parent", "round", "method", "sha256", "created_at"})
    return {**shown, "frozen": frozen.mean if frozen else None}


def _known(ledger: Ledger, number: int) -> PolicyRow:
    row = ledger.get(PolicyRow, number)
    if row is None:
        have = ", ".join(f"policy-{n}" for n in sorted(ledger.column(PolicyRow, "number")))
        raise UsageError(f"the run has no policy-{number}. It has: {have or 'none yet'}.")
    if row.state == PolicyState.DISCARDED.value:
        raise UsageError(f"policy-{number} was trained for one suite and its weights were thrown away. Name another.")
    return row


def _finished(ledger: Ledger) -> bool:
    return any(row.finished_at is not None for row in ledger.rows(RunRow))


def _next_round(ledger: Ledger) -> int:
    """The number of a new round; one of which no more than the fresh suite was drawn is still to come."""
    last = _last_round(ledger)
    played = not last or ledger.count(NodeRow, round=last, node="propose")
    begun = any(ledger.count(table, round=last) for table in (CurationRow, ExampleRow, EvaluationRow, GateRow))
    return last + 1 if played or begun else last


def _last_round(ledger: Ledger) -> int:
    """The last round that anything was begun in, also one that kept nothing and came to no gate."""
    rounds: set[int] = {0, *ledger.column(SuiteRow, "round", suite="fresh")}
    return max(rounds.union(*(ledger.column(table, "round") for table in (CurationRow, ExampleRow, GateRow))))
