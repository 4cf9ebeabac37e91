"""The life of what a run remembers: recalled for a task, learned from a round, retired, consolidated.

All of it depends only on the ledger and on what the memory held when the round began, so a repeated node does the same.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from autotelic.core.words import Task
from autotelic.environments import solved
from autotelic.graphs.session import Session
from autotelic.graphs.solve import SolveState, build_solve
from autotelic.memory import HARMFUL, Attempted, Lesson, Query, usefulness
from autotelic.serving import Sampling
from autotelic.store import EpisodeRow, Ledger

__all__ = ["attempted", "consolidate", "learn_lessons", "recall", "retire_harmful"]

CONSOLIDATED = "consolidated"


async def recall(s: Session, tasks: list[Task], round: int) -> dict[str, list[Any]]:
    """Return what the memory of earlier rounds has for each task: demonstrations, then lessons."""
    settings = s.config.memory
    if not tasks or not settings.demonstrations + settings.lessons:
        return {}
    s.progress.start("recall")
    found: dict[str, list[Any]] = defaultdict(list)
    for kind, k in (("demonstration", settings.demonstrations), ("lesson", settings.lessons)):
        if not k:
            continue
        queries = [
            Query(t.question, t.id, t.environment, t.family, kinds=(kind,), scopes=settings.scopes)  # type: ignore[arg-type]
            for t in tasks
        ]
        rows = await s.memory.retrieve(queries, k, before_round=round, **settings.ranking)
        for task, items in zip(tasks, rows, strict=True):
            found[task.id] += items
    s.progress.stop("recall")
    return found


async def learn_lessons(s: Session, round: int, champion: int) -> dict[str, Any]:
    """Have the curator draw lessons from tasks of the round that went right and wrong, and remember them.

    Which tasks they rest on is a matter of verified outcomes; what the advice is worth, only its use can show.
    """
    settings = s.config.memory
    if not settings.lessons:
        return {}
    by_task: dict[str, dict[bool, EpisodeRow]] = defaultdict(dict)
    for e in s.ledger.rows(EpisodeRow, round=round, order="id"):
        if e.score is not None and e.answer is not None:
            by_task[e.task_id].setdefault(solved(e.score), e)
    mixed = sorted(task for task, found in by_task.items() if len(found) == 2)
    chosen = random.Random(s.seed("lessons", round)).sample(mixed, min(settings.new_lessons, len(mixed)))
    tasks = s.ledger.tasks(chosen)
    known = await s.memory.get([_lesson_id(round, task_id) for task_id in chosen])
    drawn: list[Lesson] = []

    async def draw(task_id: str) -> None:
        task, right, wrong = tasks[task_id], by_task[task_id][True], by_task[task_id][False]
        seed = s.seed("lesson", round, task_id)
        advice = await s.curator.lesson(task.question, str(right.answer), str(wrong.answer), seed=seed)
        if advice is not None:
            place = {"environment": task.environment, "family": task.family, "round": round, "policy": champion}
            rests = {"situation": task.question, "advice": advice, "right": (right.id,), "wrong": (wrong.id,)}
            drawn.append(Lesson.model_validate({"id": _lesson_id(round, task_id), **place, **rests}))

    todo = [task_id for task_id in chosen if _lesson_id(round, task_id) not in known]
    if todo:
        await s.serve(champion)
        await s.each("lessons", todo, draw, done=len(chosen) - len(todo))
    added = await s.memory.add(sorted(drawn, key=lambda one: one.id))
    return {"lessons": len(added.added) + len(known), "lessons_merged": len(added.merged)}


async def retire_harmful(s: Session, round: int) -> dict[str, Any]:
    """Retire items with which attempts did worse than bare ones at the same tasks, beyond doubt."""
    if not s.config.memory.retire:
        return {}
    worth = usefulness(attempted(s.ledger), now=round)
    await s.memory.retire([id_ for id_, one in worth.items() if one.high < 0], round=round, reason=HARMFUL)
    rows = (await s.memory.rows()).values()
    return {"retired": sum(row.why == HARMFUL and row.evicted == round for row in rows)}


def attempted(ledger: Ledger) -> list[Attempted]:
    """Return every judged attempt of the run's rollouts."""
    rows = ledger.columns(EpisodeRow, "task_id", "policy", "round", "memory_ids", "score", order="id")
    return [
        Attempted(task_id, policy, round, tuple(ids), float(solved(score)))
        for task_id, policy, round, ids, score in rows
        if score is not None
    ]


async def consolidate(s: Session, round: int, policy: int) -> dict[str, Any]:
    """Measure what a promoted policy does without help, and keep in sight only demonstrations that it still needs.

    It answers the question of each demonstration bare and greedily. What it answers right leaves the prompts (the item
    stays and can be restored); what had left and is now answered wrong comes back.
    """
    detail = s.ledger.node(round, "gate").detail
    if "learned" not in detail:
        detail = await _measured(s, policy)
        s.note("gate", detail)
    await s.memory.retire(detail["learned"], round=round, reason=CONSOLIDATED)
    await s.memory.restore(detail["needed"])
    return {name: detail[name] for name in ("learned", "needed")}


async def _measured(s: Session, policy: int) -> dict[str, Any]:
    """Return the ids of demonstrations in sight that the policy has learned, and of those out of it that it needs."""
    rows = await s.memory.rows()
    items = [d for d in await s.memory.all("demonstration") if rows[d.id].why in {"", CONSOLIDATED}]
    tasks = s.ledger.tasks(d.task_id for d in items)
    items = [d for d in items if d.task_id in tasks]  # one from elsewhere has no key here
    await s.serve(policy)
    graph = build_solve(s.solver)
    sampling = Sampling(n=1, temperature=0.0, max_tokens=s.config.solve.max_tokens)
    able: set[str] = set()

    async def ask(task_id: str) -> None:
        state: SolveState = {"task": tasks[task_id], "recalled": [], "sampling": sampling}
        if solved((await graph.ainvoke(state))["attempts"][0].score):
            able.add(task_id)

    await s.each("consolidate", sorted({d.task_id for d in items}), ask)
    return {
        "learned": [d.id for d in items if d.task_id in able and not rows[d.id].why],
        "needed": [d.id for d in items if d.task_id not in able and rows[d.id].why],
    }


def _lesson_id(round: int, task_id: str) -> str:
    return f"r{round}/lesson/{task_id}"
