"""Suites answered by strategies: one row of the ledger for each answer, so that what was cut off goes on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from autotelic.agents import Solver
from autotelic.core.errors import UsageError
from autotelic.core.words import Role, Task, content_id
from autotelic.evaluation import full_marks
from autotelic.graphs.adapting import Prepared, prepared
from autotelic.graphs.evaluating import kept_as
from autotelic.graphs.others import shown_others
from autotelic.graphs.remembering import recall
from autotelic.graphs.session import Session
from autotelic.graphs.strategy_solver import current_prompts, current_routes, first_score, how_found, reached, work_of
from autotelic.memory import Demonstration, Lesson
from autotelic.refinement import Adapting, Answer, Budget, build_strategy, uses
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
    only: Collection[str] | None = None,
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
        only: ids of the tasks to answer; `None` is all of them.

    Raises:
        UsageError: there is no such strategy, or it cannot be used here.
    """
    answers, helped = build_strategy(strategy, suite=True), memory_of is not None
    if isinstance(answers, Adapting) and budget and str(budget):
        raise UsageError("adapted has a budget of its own, its seconds; leave out that of each answer.")
    tasks = [t for t in s.ledger.suite(suite, round=round)[:limit] if only is None or t.id in only]
    named = _versioned(s, strategy, policy) + shown_others(s.config.solve.others)
    if isinstance(answers, Adapting):  # its weights are those for these tasks
        named += f" for {len(tasks)} tasks {content_id(*sorted(task.id for task in tasks))}"
    if budget and str(budget):
        named += f" within {budget}"
    kept = kept_as(suite, round, memory_of)
    key: dict[str, Any] = {"suite": kept, "round": round, "policy": policy, "strategy": named, "memory": helped}
    done = set(s.ledger.column(StrategyRow, "task_id", **key))
    todo = [task for task in tasks if task.id not in done]
    if not todo:
        return _in_order(s, tasks, key)
    async with prepared(s, answers, tasks, policy, before_round=round or None) as made:
        recalled = await recall(s, todo, memory_of) if memory_of is not None else {}
        solver = Solver(s.server.gateway, s.environment)

        async def ask(task: Task) -> None:
            shown = recalled.get(task.id, [])
            examples = [m for one in shown if isinstance(one, Demonstration) for m in one.messages]
            advice = [one.advice for one in shown if isinstance(one, Lesson)]
            opening = solver.messages(task, examples, advice)
            answer = await reached(made.strategy, work_of(s, task, opening, budget, policy, round or None))
            score = (await s.environment.check(task, answer.text)).score
            began = await first_score(s.environment, task, answer.draft)
            row = _row(key, task, answer, score, began)
            s.ledger.add([_with_adaptation(row, made, len(tasks))])

        await s.each(strategy, todo, ask, done=len(tasks) - len(todo))
    return _in_order(s, tasks, key)


def _in_order(s: Session, tasks: Sequence[Task], key: dict[str, Any]) -> list[StrategyRow]:
    rows = {row.task_id: row for row in s.ledger.rows(StrategyRow, **key)}
    return [rows[task.id] for task in tasks if task.id in rows]


def _with_adaptation(row: StrategyRow, made: Prepared, tasks: int) -> StrategyRow:
    """Add what was done before the answers to one of them: its own vote, and its share of the time."""
    row.stopped = row.stopped or made.stopped
    row.seconds += made.seconds / tasks
    if (price := made.prices.get(row.task_id)) is not None:
        row.calls += price.calls
        row.prompt_tokens += price.prompt_tokens
        row.cached_tokens += price.cached_tokens
        row.completion_tokens += price.completion_tokens
    return row


def _versioned(s: Session, strategy: str, policy: int) -> str:
    """Name a strategy by the versions of what it takes from the ledger: routes and prompts."""
    named, within = strategy, [strategy]
    if uses(strategy, "auto"):
        version, routes = current_routes(s.ledger, policy)
        named += f" by routes {version}"
        within += routes.values()
    if any(uses(one, "prompted") for one in within):
        rows = current_prompts(s.ledger, policy)
        versions = [str(rows[role].version) for role in (Role.SOLVER, Role.CRITIC) if role in rows]
        named += f" by prompts {' and '.join(versions) or 0}"
    return named


def _row(key: dict[str, Any], task: Task, answer: Answer, score: float | None, first: float | None) -> StrategyRow:
    return StrategyRow(
        **key,
        task_id=task.id,
        family=task.family,
        answer=answer.text,
        score=full_marks(score),
        first_score=full_marks(first),
        **how_found(answer),
    )
