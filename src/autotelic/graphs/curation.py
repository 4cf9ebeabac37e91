"""Data selection: the node `curate` turns a round's trajectories and proposals into training examples.

Every item meets one fate, kept or dropped with a reason, and the ledger has a row for it. What is kept is what the bare
prompt leads to: the demonstrations that helped are not in it. The model's own reviews come last and count only while
they tell right from wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from autotelic.core.dialect import read_turn
from autotelic.core.words import Role, Task, TrainingExample, content_id
from autotelic.environments import solved
from autotelic.evaluation import auc
from autotelic.graphs.acquire import balanced_sample, judged, messages_of
from autotelic.graphs.remembering import learn_lessons, retire_harmful
from autotelic.graphs.session import Session, as_dicts
from autotelic.memory import Demonstration
from autotelic.selection import (
    Candidate,
    Drop,
    Gate,
    Past,
    Pool,
    answer_share,
    contamination,
    exact_duplicates,
    family_quota,
    learnable_band,
    luck,
    max_examples,
    more_than_luck,
    near_duplicates,
    per_task_cap,
    replay,
    verified_only,
)
from autotelic.selection import (
    curate as pass_gates,
)
from autotelic.store import (
    CurationRow,
    EpisodeRow,
    ExampleRow,
    FeedbackRow,
    PolicyRow,
    ProposalRow,
    SuiteRow,
    TaskRow,
)

__all__ = ["curate", "curate_feedback"]

_CHAT = "chat"
"""Family of what people said in chats."""


async def curate(s: Session, round: int, champion: int) -> dict[str, Any]:
    """Choose what the round trains on, write every item's fate, and let memory have what was solved."""
    tasks = s.ledger.tasks(s.ledger.column(ProposalRow, "task_id", round=round, reason="ok"))
    episodes = s.ledger.rows(EpisodeRow, round=round, order="id")
    suites = s.ledger.tasks(s.ledger.column(SuiteRow, "task_id")).values()
    clean = contamination(suites, threshold=s.config.curate.contamination)
    detail: dict[str, Any] = {}
    if not s.ledger.count(CurationRow, round=round):
        rates = _solve_rates(episodes)
        candidates = _solver_candidates(episodes, tasks, rates, round, plain=s.plain)
        candidates += _proposer_candidates(s, rates, round)
        if champion:
            guessed = luck(judged(s, round))
            candidates = [c.model_copy(update={"luck": guessed.get(c.task_id, 0.0)}) for c in candidates]
        fates = _Fates(candidates, round)
        kept = fates.apply(_gates(s, round, clean))
        kept, detail = await _reviewed(s, round, champion, kept, fates)
        s.note("curate", detail)
        s.ledger.add([*fates.rows(), *_examples(s, round, champion, kept, clean)])
    await s.memory.add(_demonstrations(episodes, tasks, clean, round, plain=s.plain))
    detail |= {**await learn_lessons(s, round, champion), **await retire_harmful(s, round)}
    origins = s.ledger.rows(ExampleRow, round=round)
    new = [row for row in origins if row.origin == "new"]
    return {
        "new": sum(row.role == Role.SOLVER.value for row in new),
        "proposer": sum(row.role == Role.PROPOSER.value for row in new),
        "replayed": len(origins) - len(new),
        **detail,
    }


def curate_feedback(s: Session, round: int, champion: int) -> int:
    """Make what people said in chats that may be learned from the rows of a round; return how many of it are kept.

    A person's word is the verdict; what is a copy, or near a task of a suite, is dropped as anything else is. Rows that
    were trained on before are trained on again: a person's handful is soon drowned.
    """
    suites = s.ledger.tasks(s.ledger.column(SuiteRow, "task_id")).values()
    clean = contamination(suites, threshold=s.config.curate.contamination)
    rows = s.ledger.rows(FeedbackRow, order=("at", "id"))
    candidates = [_said_by_people(row, round) for row in rows]
    fates = _Fates(candidates, round)
    kept = fates.apply({Role.SOLVER: [clean, exact_duplicates(()), max_examples(s.config.curate.max_examples)]})
    if kept:
        s.ledger.add([*fates.rows(), *_examples(s, round, champion, kept, clean, origin="said")])
    return len(kept)


def _said_by_people(row: FeedbackRow, round: int) -> Candidate:
    example = _example(Role.SOLVER, row.messages, row.chosen, _CHAT, f"chat/{row.id}")
    question = str(row.messages[-1]["content"])
    return Candidate(
        id=row.id, example=example, task_id=row.id, question=question, answer=row.chosen, score=1.0, round=round
    )


class _Fates:
    """Candidates on their way through the gates, and what became of each."""

    def __init__(self, candidates: list[Candidate], round: int) -> None:
        self._candidates = candidates
        self._round = round
        self._drops: dict[str, Drop] = {}

    def apply(self, gates: dict[Role, list[Gate]]) -> list[Candidate]:
        """Return what the gates of its role let pass."""
        for role, row in gates.items():
            own = [c for c in self._candidates if c.example.role == role]
            self.drop(pass_gates(own, row).dropped)
        return [c for c in self._candidates if c.id not in self._drops]

    def drop(self, drops: Any) -> None:
        """Note further drops."""
        self._drops |= {drop.item_id: drop for drop in drops}

    def rows(self) -> list[CurationRow]:
        """One row for each candidate."""
        return [self._row(candidate, self._drops.get(candidate.id)) for candidate in self._candidates]

    def _row(self, one: Candidate, drop: Drop | None) -> CurationRow:
        return CurationRow(
            round=self._round,
            item_id=one.id,
            role=one.example.role.value,
            family=one.example.family,
            kept=drop is None,
            reason=drop.reason if drop else "kept",
            detail=drop.detail if drop else "",
            example_id=one.example.id,
        )


def _solve_rates(episodes: list[EpisodeRow]) -> dict[str, float]:
    """Share of right attempts at each task; attempts without a verdict do not count."""
    scores: dict[str, list[float]] = defaultdict(list)
    for e in episodes:
        if e.score is not None:
            scores[e.task_id].append(float(solved(e.score)))
    return {task: fmean(found) for task, found in scores.items()}


def _solver_candidates(
    episodes: list[EpisodeRow], tasks: dict[str, Task], rates: dict[str, float], round: int, *, plain: bool
) -> list[Candidate]:
    found = []
    for e in episodes:
        answer = (e.answer or e.text).strip()
        # With tools, or an agent, the last turn has a form of its own; else the answer alone is what is worth saying.
        text = answer if plain else e.text
        example = _example(Role.SOLVER, e.bare_messages, text, e.family, e.id, e.turns, e.tools)
        found.append(
            Candidate(
                id=e.id,
                example=example,
                task_id=e.task_id,
                question=tasks[e.task_id].question,
                answer=answer,
                gold=tasks[e.task_id].answer,
                score=e.score,
                solve_rate=rates.get(e.task_id),
                round=round,
            )
        )
    return found


def _proposer_candidates(s: Session, rates: dict[str, float], round: int) -> list[Candidate]:
    """Proposals that became tasks; whether they were good ones is a matter of the learnable band."""
    rows = s.ledger.rows(ProposalRow, round=round, reason="ok", order="index")
    return [
        Candidate(
            id=row.id,
            example=_example(Role.PROPOSER, row.messages, row.text, row.family, row.id),
            task_id=str(row.task_id),
            question=row.text,
            score=1.0,
            solve_rate=rates.get(str(row.task_id)),
            round=round,
        )
        for row in rows
    ]


def _example(
    role: Role,
    messages: list[dict[str, Any]],
    text: str,
    family: str,
    source: str,
    turns: Iterable[dict[str, Any]] = (),
    tools: Iterable[dict[str, Any]] = (),
) -> TrainingExample:
    between = messages_of(turns)
    return TrainingExample(
        id=content_id(role.value, messages, *([as_dicts(between)] if between else []), text),
        role=role,
        messages=messages_of(messages),
        turns=between,
        tools=tuple(tools),
        completion=text,
        family=family,
        source=source,
    )


def _gates(s: Session, round: int, clean: Gate) -> dict[Role, list[Gate]]:
    settings = s.config.curate
    past = [_past(row) for earlier in range(1, round) for row in s.ledger.rows(ExampleRow, round=earlier, origin="new")]
    seen = [p.example_id for p in past]
    common = [verified_only(), learnable_band(), more_than_luck(settings.luck), clean, exact_duplicates(seen)]
    near = near_duplicates(past, threshold=settings.near_duplicate)
    return {
        Role.SOLVER: [
            *common,
            per_task_cap(settings.per_task),
            near,
            answer_share(settings.answer_share, min(settings.per_family, settings.max_examples)),
            family_quota(settings.per_family),
            max_examples(settings.max_examples),
            answer_share(settings.answer_share),  # which rows of a family found room is known only now
        ],
        Role.PROPOSER: [*common, max_examples(settings.max_proposals)],
    }


def _past(row: ExampleRow) -> Past:
    return Past(
        example_id=row.id, task_id=row.task_id, question=row.question, answer=_answer_of(row), role=Role(row.role)
    )


def _answer_of(row: ExampleRow) -> str:
    """The answer that an example gives; with tools it stands inside the last turn's form."""
    if row.role != Role.SOLVER.value:
        return ""
    said = read_turn(row.completion).answer if row.tools else None
    return row.completion if said is None else said


async def _reviewed(
    s: Session, round: int, champion: int, kept: list[Candidate], fates: _Fates
) -> tuple[list[Candidate], dict[str, Any]]:
    """Ask the curator's model about a balanced sample, and about what is kept only if it proved able on the sample."""
    if not s.config.curate.reviews:
        return kept, {}
    await s.serve(champion)
    sample = balanced_sample(s, round, s.config.curate.reviews, "review")
    tasks = s.ledger.tasks(e.task_id for e in sample)
    keep: dict[str, float | None] = {}

    async def review(item: tuple[str, str, str]) -> None:
        found = await s.curator.review(*item, seed=s.seed("review", item[0]))
        keep[found.item_id] = found.keep

    await s.each("review", [(e.id, tasks[e.task_id].question, str(e.answer)) for e in sample], review)
    able = auc([keep[e.id] for e in sample], [solved(e.score) for e in sample], confidence=s.config.gate.confidence)
    trusted = able is not None and able.low > 0.5
    detail = {"review_auc": able.model_dump() if able else None, "review_trusted": trusted}
    if trusted:
        own = [c for c in kept if c.example.role == Role.SOLVER]
        await s.each("review", [(c.id, c.question, c.answer) for c in own if c.id not in keep], review)
        against = {c.id: share for c in own if (share := keep[c.id]) is not None and share < 0.5}
        fates.drop(
            Drop(item_id=i, reason="reviewed_out", detail=f"{share:.0%} of the reviews would keep it")
            for i, share in against.items()
        )
        kept = [c for c in kept if c.id not in against]
    return kept, detail


def _examples(
    s: Session, round: int, champion: int, kept: list[Candidate], clean: Gate, *, origin: str = "new"
) -> list[ExampleRow]:
    """Rows to train on: the round's own, those of refused rounds since the champion's, and a share of older ones."""
    settings = s.config.curate
    learned = s.ledger.rows(PolicyRow, number=champion)[0].round
    past = {n: [_replayable(row) for row in s.ledger.rows(ExampleRow, round=n, origin="new")] for n in range(1, round)}
    # What a person said is few: it is not to drown in what the gate has refused before.
    carried = [one for n, rows in past.items() if n > learned for one in rows] if origin == "new" else []
    barred = {drop.item_id for drop in clean(carried)}
    room = max(0, settings.max_examples - len(kept))  # the newest first: long refused, a run would train ever longer
    carried = [one for one in carried[::-1] if one.id not in barred][:room]
    earlier = [one for n, rows in past.items() if n <= learned for one in rows]
    real = s.ledger.tasks(row.id for row in s.ledger.rows(TaskRow, origin="real", order="id"))
    share = settings.replay if origin == "new" else s.config.feedback.replay
    pools = [Pool("replay", earlier, share if earlier else 0.0)]
    if s.plain:  # a real example has an answer and no calls: with tools it would teach not to use them
        pools.append(Pool("real", [_real(s, task) for task in real.values()], settings.real))
    drawn = replay([*kept, *carried], pools, contamination=clean, seed=s.seed("replay", round))
    chosen = [(origin, one) for one in kept] + [("carried", one) for one in carried]
    chosen += [(name, one) for name, rows in drawn.rows.items() for one in rows]
    return [
        ExampleRow(
            round=round,
            id=one.example.id,
            position=position,
            role=one.example.role.value,
            messages=as_dicts(one.example.messages),
            turns=as_dicts(one.example.turns),
            tools=list(one.example.tools),
            completion=one.example.completion,
            family=one.example.family,
            source=one.example.source,
            weight=one.example.weight,
            origin=whence,
            task_id=one.task_id,
            question=one.question,
        )
        for position, (whence, one) in enumerate(chosen)
    ]


def _replayable(row: ExampleRow) -> Candidate:
    example = _example(Role(row.role), row.messages, row.completion, row.family, row.source, row.turns, row.tools)
    return Candidate(
        id=f"r{row.round}/{row.id}",
        example=example,
        task_id=row.task_id,
        question=row.question,
        answer=_answer_of(row),
        score=1.0,
        round=row.round,
    )


def _real(s: Session, task: Task) -> Candidate:
    messages = as_dicts(s.solver.messages(task))
    return Candidate(
        id=f"real/{task.id}",
        example=_example(Role.SOLVER, messages, str(task.answer), task.family, f"real/{task.id}"),
        task_id=task.id,
        question=task.question,
        answer=str(task.answer),
        score=1.0,
    )


def _demonstrations(
    episodes: list[EpisodeRow], tasks: dict[str, Task], clean: Gate, round: int, *, plain: bool
) -> list[Demonstration]:
    """The first right answer to each task of the round, but for what is near an evaluation task."""
    right: dict[str, EpisodeRow] = {}
    for e in episodes:
        if solved(e.score):
            right.setdefault(e.task_id, e)
    candidates = _solver_candidates(list(right.values()), tasks, {}, round, plain=plain)
    barred = {drop.item_id for drop in clean(candidates)}
    return [
        Demonstration(
            id=c.id,
            task_id=c.task_id,
            environment=tasks[c.task_id].environment,
            family=c.example.family,
            question=c.question,
            answer=c.answer,
            score=1.0,
            policy=right[c.task_id].policy,
            round=round,
            trajectory_id=c.id,
            turns=c.example.turns,
            said=c.example.completion if c.example.turns else "",
        )
        for c in candidates
        if c.id not in barred
    ]
