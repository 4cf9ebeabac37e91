"""Suites answered by strategies: one row of the ledger for each answer, so that what was cut off goes on."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from autotelic.agents import Solver
from autotelic.core.words import Task
from autotelic.evaluation import full_marks
from autotelic.graphs.remembering import recall
from autotelic.graphs.session import Session
from autotelic.graphs.strategy_solver import current_routes, reached, work_of
from autotelic.memory import Demonstration, Lesson
from autotelic.refinement import Answer, Budget, build_strategy
from autotelic.store import StrategyRow

__all__ = ["answer_suite_by"]


async def answer_suite_by(
    s: Session,
    strategy: str,
    suite: str,
    round: int,
    policy: int,
    *,
    memory_of: int | None = None,
    budget: Budget | None = None,
    limit: int | None = None,
    families: Collection[str] = (),
) -> list[StrategyRow]:
    """Have a policy answer a suite by a strategy, as far as it has not; return all of its rows, in the suite's order.

    All strategies get the same seed for a task. What they may not use is the checker: suites have hidden keys.

    Args:
        s: the session; the policy is served, proved, before the first question.
        strategy: as it is written in a config.
        suite: name of the suite.
        round: the suite's round, 0 for those that stay the same.
        policy: who answers.
        memory_of: answer with what the memory held before this round; `None` is without.
        budget: of each answer.
        limit: only the first so many tasks.
        families: only tasks of these, if any are named.

    Raises:
        UsageError: there is no such strategy, or it cannot be used here.
    """
    answers, helped = build_strategy(strategy), memory_of is not None
    tasks = [t for t in s.ledger.suite(suite, round=round)[:limit] if not families or t.family in families]
    named = strategy
    if re.search(r"\bauto\b", strategy):  # what it does is a matter of the routes
        named += f" by routes {current_routes(s.ledger, policy)[0]}"
    if budget and str(budget):
        named += f" within {budget}"
    key: dict[str, Any] = {"suite": suite, "round": round, "policy": policy, "strategy": named, "memory": helped}
    done = set(s.ledger.column(StrategyRow, "task_id", **key))
    todo = [task for task in tasks if task.id not in done]
    if todo:
        await s.serve(policy)
        recalled = await recall(s, todo, memory_of) if memory_of is not None else {}
        solver = Solver(s.server.gateway, s.environment)

        async def ask(task: Task) -> None:
            shown = recalled.get(task.id, [])
            examples = [m for one in shown if isinstance(one, Demonstration) for m in one.messages]
            advice = [one.advice for one in shown if isinstance(one, Lesson)]
            opening = solver.messages(task, examples, advice)
            answer = await reached(answers, work_of(s, task, opening, budget))
            score = (await s.environment.check(task, answer.text)).score
            first = answer.draft.of[0] if answer.draft.revised and answer.draft.of else None
            began = None if first is None else (await s.environment.check(task, first.answer)).score
            s.ledger.add([_row(key, task, answer, score, began)])

        await s.each(strategy, todo, ask, done=len(tasks) - len(todo))
    rows = {row.task_id: row for row in s.ledger.rows(StrategyRow, **key)}
    return [rows[task.id] for task in tasks if task.id in rows]


def _row(key: dict[str, Any], task: Task, answer: Answer, score: float | None, first: float | None) -> StrategyRow:
    return StrategyRow(
        **key,
        task_id=task.id,
        family=task.family,
        answer=answer.text,
        score=full_marks(score),
        first_score=full_marks(first),
        revised=answer.draft.revised,
        stopped=answer.stopped,
        calls=answer.price.calls,
        prompt_tokens=answer.price.prompt_tokens,
        cached_tokens=answer.price.cached_tokens,
        completion_tokens=answer.price.completion_tokens,
        seconds=answer.price.seconds,
        drafts=[draft.model_dump(include={"by", "answer", "score", "certainty"}) for draft in answer.draft.of],
    )
