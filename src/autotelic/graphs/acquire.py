"""Data acquisition: the nodes `propose` and `solve`, and the `critique` of what came out.

Each asks the ledger what is done and does the rest. An item is one row, written in one transaction when it is finished,
under an id that does not depend on when or how often it was tried.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from autotelic.agents import Attempt
from autotelic.core.words import Message, Origin, Proposal, Rejection, Role, Task, TrainingExample
from autotelic.environments import solved
from autotelic.graphs.remembering import recall
from autotelic.graphs.session import Session, as_dicts
from autotelic.graphs.solve import SolveState, build_solve
from autotelic.graphs.strategy_solver import RefinedAttempt, StrategySolver, how_found
from autotelic.memory import Lesson
from autotelic.selection import Answered, Candidate, Tried, contamination, focused, luck, worth_of_cells
from autotelic.serving import Sampling
from autotelic.store import (
    CritiqueRow,
    EpisodeRow,
    ExampleRow,
    ProposalRow,
    RefinementRow,
    SuiteRow,
    TaskRow,
    ToolCallRow,
)

__all__ = [
    "balanced_sample",
    "clean_of_suites",
    "critique",
    "episodes",
    "explored",
    "judged",
    "messages_of",
    "met_tasks",
    "propose",
    "solve",
    "tool_calls",
    "unmet",
]


_LATE_ROUNDS = 2
"""Rounds that tell where to look for tasks; before them the policy was another."""
_POOL = 4
"""Tasks to choose from for each one that is drawn."""


async def propose(s: Session, round: int, champion: int) -> dict[str, Any]:
    """Have tasks written and validated until the round has its number of proposals."""
    await s.serve(champion)
    settings = s.config.propose
    done = set(s.ledger.column(ProposalRow, "id", round=round))
    share = int(settings.tasks * settings.explore)
    free = explored(s, round, max(1, share))
    known = met_tasks(s)
    groups = [range(i, min(i + settings.group, settings.tasks)) for i in range(0, settings.tasks, settings.group)]
    open_groups = [g for g in groups if any(_proposal_id(round, i) not in done for i in g)]
    examples = [e.completion for e in s.ledger.rows(ExampleRow, role="proposer", order=["round", "position"])]

    async def write(group: range) -> None:
        rng = random.Random(s.seed("propose", round, group.start))
        by_model = [i for i in group if i >= share]
        drafts = {}
        if by_model:
            shown = _shown(rng, examples, free, s, settings.examples)
            written = await s.proposer.draft(shown, n=len(by_model), seed=rng.getrandbits(31))
            drafts = dict(zip(by_model, written, strict=True))
        rows, tasks = [], []
        for i in group:
            draft = drafts.get(i)
            text = draft.completion.text if draft else s.environment.proposal_text(free[i])
            row, task = await _judge(s, round, i, text, explore=draft is None, known=known)
            row.policy, row.messages = champion, as_dicts(draft.messages if draft else s.proposer.bare())
            rows.append(row)
            tasks += [task] if task else []
        s.ledger.add([*(TaskRow(**task.model_dump(mode="json")) for task in tasks), *rows])

    await s.each("propose", open_groups, write, done=len(groups) - len(open_groups))
    rows = s.ledger.rows(ProposalRow, round=round)
    return {"proposals": len(rows), "valid": sum(r.task_id is not None for r in rows)}


def explored(s: Session, round: int, n: int) -> list[Task]:
    """Draw `n` tasks from the environment, from round 2 on a share of them where late rounds were sometimes right."""
    even = s.environment.tasks(n, s.seed("explore", round))
    if round < 2:
        return even
    tried: list[Tried] = []
    for late in range(max(1, round - _LATE_ROUNDS), round):
        answers = judged(s, late)
        guessed, right = luck(answers), defaultdict[str, list[bool]](list)
        for one in answers:
            right[one.task_id].append(one.right)
        for task in s.ledger.tasks(right).values():
            lucky = guessed.get(task.id, 0.0) > s.config.curate.luck
            tried.append(Tried(cell=(task.family, task.difficulty), rate=fmean(right[task.id]), lucky=lucky))
    # Drawn in pieces, because an environment may not have so many different tasks.
    more = [s.environment.tasks(n, s.seed("explore", round, piece)) for piece in range(1, _POOL)]
    pool = list({task.id: task for task in chain(even, *more)}.values())
    return focused(pool, worth_of_cells(tried), s.config.propose.focus, n, s.seed("focus", round))


def judged(s: Session, round: int) -> list[Answered]:
    """Return the round's attempts that got a verdict."""
    rows = s.ledger.columns(EpisodeRow, "task_id", "family", "answer", "score", round=round)
    return [
        Answered(task_id=task, family=family, answer=answer or "", right=solved(score))
        for task, family, answer, score in rows
        if score is not None
    ]


def met_tasks(s: Session) -> set[str]:
    """Return the ids of all tasks that stand for something in the run: in a suite, in the real set, or proposed."""
    suites, real = s.ledger.column(SuiteRow, "task_id"), s.ledger.column(TaskRow, "id", origin=Origin.REAL.value)
    return {*suites, *real, *s.ledger.column(ProposalRow, "task_id", reason="ok")}


def unmet(s: Session, tasks: list[Task]) -> list[Task]:
    """Return those of `tasks` that the run has not met, nor a near copy of them."""
    return _apart(s, tasks, met_tasks(s))


def clean_of_suites(s: Session, tasks: list[Task]) -> list[Task]:
    """Return those of `tasks` that are in no suite of the run, nor near copies of what is."""
    return _apart(s, tasks, set(s.ledger.column(SuiteRow, "task_id")))


def _apart(s: Session, tasks: list[Task], others: set[str]) -> list[Task]:
    met = contamination(s.ledger.tasks(others).values(), threshold=s.config.curate.contamination)
    candidates = [
        Candidate(
            id=task.id,
            example=TrainingExample(
                id=task.id, role=Role.SOLVER, messages=(), completion=task.answer or "", family=task.family
            ),
            task_id=task.id,
            question=task.question,
            answer=task.answer or "",
            score=None,
        )
        for task in tasks
    ]
    dropped = {drop.item_id for drop in met(candidates)}
    return [task for task in tasks if task.id not in dropped]


def _shown(rng: random.Random, examples: list[str], free: list[Task], s: Session, n: int) -> list[str]:
    """Earlier successes, filled up with the environment's own, in random order: the source of variety."""
    pool = rng.sample(examples, min(n, len(examples)))
    pool += [s.environment.proposal_text(t) for t in rng.sample(free, min(n - len(pool), len(free)))]
    return rng.sample(pool, len(pool))


async def _judge(
    s: Session, round: int, index: int, text: str, *, explore: bool, known: set[str]
) -> tuple[ProposalRow, Task | None]:
    origin = Origin.EXPLORE if explore else Origin.PROPOSER
    proposal = Proposal(
        id=_proposal_id(round, index),
        environment=s.environment.name,
        text=text,
        seed=s.seed("instance", round, index),
        origin=origin,
    )
    outcome = await s.environment.validate(proposal)
    row = ProposalRow(
        id=proposal.id,
        round=round,
        index=index,
        origin=origin.value,
        policy=0,
        messages=[],
        text=text,
        seed=proposal.seed,
        reason="ok",
    )
    if isinstance(outcome, Rejection):
        row.reason, row.detail = outcome.reason, outcome.detail
        return row, None
    row.family = outcome.family
    if outcome.id in known:
        row.reason, row.detail = "duplicate", "a task of this run, of a suite or of the real set already"
        return row, None
    known.add(outcome.id)
    row.task_id = outcome.id
    return row, outcome.model_copy(update={"origin": origin})


async def solve(s: Session, round: int, champion: int) -> dict[str, Any]:
    """Roll out the champion on every valid task of the round."""
    await s.serve(champion)
    proposals = s.ledger.rows(ProposalRow, round=round, reason="ok", order="index")
    tasks = s.ledger.tasks(str(p.task_id) for p in proposals)
    settings = s.config.solve
    bare = int(settings.samples * settings.bare) if champion > 0 else 0
    done = set(s.ledger.column(EpisodeRow, "id", round=round))
    kinds = [(True, settings.samples - bare), (False, bare)]
    wanted = [(task, helped, n) for task in tasks.values() for helped, n in kinds if n]
    todo = [(t, h, n) for t, h, n in wanted if _episode_id(round, t.id, h, n - 1) not in done]
    recalled = await recall(s, [t for t, helped, _ in todo if helped], round)
    plain = build_solve(s.solver)
    refined = build_solve(StrategySolver(s, settings.strategy)) if settings.strategy else plain

    async def roll_out(item: tuple[Task, bool, int]) -> None:
        task, helped, n = item
        sampling = Sampling(
            n=n,
            seed=s.seed("solve", round, task.id, int(helped)),
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )
        given = recalled.get(task.id, []) if helped else []
        state: SolveState = {"task": task, "recalled": given, "sampling": sampling}
        result = await (refined if helped else plain).ainvoke(state)
        rows = episodes(round, champion, helped, result)
        for row in rows:
            row.sandbox = s.environment.sandbox or ""
        made = list(zip(rows, result["attempts"], strict=True))
        calls = [tool_calls(row.id, round, attempt) for row, attempt in made]
        found = [(row, attempt) for row, attempt in made if isinstance(attempt, RefinedAttempt)]
        if s.config.memory.lessons:
            # Not seen before the next round; if what follows fails, the same lessons come again.
            await s.memory.add(_lessons(task, found))
        how = [
            RefinementRow(
                episode=row.id,
                round=round,
                strategy=str(settings.strategy),
                first_score=attempt.first_score,
                **how_found(attempt.found),
            )
            for row, attempt in found
        ]
        s.ledger.add([*rows, *chain.from_iterable(calls), *how])

    await s.each("solve", todo, roll_out, done=len(wanted) - len(todo))
    return {"episodes": s.ledger.count(EpisodeRow, round=round)}


def episodes(round: int, policy: int, helped: bool, result: SolveState) -> list[EpisodeRow]:
    """Return the ledger's rows for one finished solve graph, a row for each sample."""
    task, attempts = result["task"], result["attempts"]
    return [
        EpisodeRow(
            id=_episode_id(round, task.id, helped, sample),
            round=round,
            task_id=task.id,
            family=task.family,
            policy=policy if attempt.completion.policy is None else attempt.completion.policy,
            sample=sample,
            messages=as_dicts(attempt.prompt or result["messages"]),
            bare_messages=as_dicts(attempt.bare or result["bare_messages"]),
            tools=list(attempt.tools),
            turns=list(attempt.turns),
            text=attempt.completion.text,
            finish_reason=attempt.completion.finish_reason,
            token_ids=list(attempt.completion.token_ids),
            prompt_tokens=attempt.completion.prompt_tokens,
            completion_tokens=attempt.completion.completion_tokens,
            answer=attempt.answer,
            score=attempt.score,
            reason=attempt.reason,
            memory_ids=[one.id for one in result["recalled"]],
            seed=result["sampling"].seed or 0,
        )
        for sample, attempt in enumerate(attempts)
    ]


def tool_calls(owner: str, round: int, attempt: Attempt) -> list[ToolCallRow]:
    """Return the ledger's rows for the calls that an attempt made."""
    return [
        ToolCallRow(
            owner=owner,
            index=index,
            round=round,
            tool=record.call.name,
            arguments=record.call.arguments,
            ok=record.result.ok,
            reason=record.result.reason,
            content=record.result.content,
            seconds=record.seconds,
        )
        for index, record in enumerate(attempt.calls)
    ]


def _lessons(task: Task, made: Sequence[tuple[EpisodeRow, RefinedAttempt]]) -> list[Lesson]:
    """Return as lessons the advice with which a strategy turned a wrong draft into a right answer."""
    return [
        Lesson(
            id=f"{row.id}/lesson/{index}",
            environment=task.environment,
            family=task.family,
            round=row.round,
            policy=row.policy,
            situation=task.question,
            advice=advice,
            right=(row.id,),
        )
        for row, attempt in made
        for index, advice in enumerate(attempt.lessons)
    ]


async def critique(s: Session, round: int, champion: int) -> dict[str, Any]:
    """Have the critic judge a balanced sample of the round's trajectories, blind to the key."""
    await s.serve(champion)
    chosen = balanced_sample(s, round, s.config.critique.episodes, "critique")
    done = set(s.ledger.column(CritiqueRow, "trajectory_id", round=round))
    tasks = s.ledger.tasks(e.task_id for e in chosen)
    todo = [e for e in chosen if e.id not in done]

    async def judge(episode: EpisodeRow) -> None:
        question = tasks[episode.task_id].question
        verdict = await s.critic.judge(
            episode.id, question, episode.answer or episode.text, seed=s.seed("critique", episode.id)
        )
        row = CritiqueRow(
            round=round, policy=champion, family=episode.family, truth=episode.score, **verdict.model_dump()
        )
        s.ledger.add([row])

    await s.each("critique", todo, judge, done=len(chosen) - len(todo))
    return {"critiques": len(chosen)}


def balanced_sample(s: Session, round: int, n: int, purpose: str) -> list[EpisodeRow]:
    """Choose up to `n` episodes with an answer, half right and half wrong as far as there are enough."""
    rng = random.Random(s.seed(purpose, round))
    episodes = [e for e in s.ledger.rows(EpisodeRow, round=round, order="id") if e.answer is not None]
    right = [e for e in episodes if e.score == 1.0]
    wrong = [e for e in episodes if e.score is not None and e.score < 1.0]
    chosen = rng.sample(right, min(n // 2, len(right)))
    return chosen + rng.sample(wrong, min(n - len(chosen), len(wrong)))


def messages_of(row: Iterable[dict[str, Any]]) -> tuple[Message, ...]:
    """Messages as stored, back as words; token ids are left out."""
    return tuple(Message.model_validate({k: v for k, v in m.items() if k != "token_ids"}) for m in row)


def _proposal_id(round: int, index: int) -> str:
    return f"r{round}/propose/{index}"


def _episode_id(round: int, task_id: str, helped: bool, sample: int) -> str:
    return f"r{round}/solve/{task_id}/{'memory' if helped else 'bare'}/{sample}"
