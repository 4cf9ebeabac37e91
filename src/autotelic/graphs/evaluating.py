"""Autonomous evaluation: the suites, the node `evaluate`, the node `gate`, and the sealed comparison at the end.

An answer to a suite's task is one ledger row, keyed by suite, round, policy, memory and task. So nothing is answered
twice, a champion's figures on the frozen suite are reused, and every number in the report is a sum over rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any

from langgraph.types import interrupt

from autotelic.agents import Attempt
from autotelic.core.errors import EnvironmentFailure
from autotelic.core.words import Origin, PolicyState, SuiteName, Task
from autotelic.environments import HoldsBack, solved
from autotelic.evaluation import Decision, compare_policies, decide, decide_wanted, full_marks, self_test
from autotelic.graphs.acquire import tool_calls, unmet
from autotelic.graphs.oversight import decided
from autotelic.graphs.remembering import consolidate, recall
from autotelic.graphs.session import Session
from autotelic.graphs.solve import SolveState, build_solve
from autotelic.graphs.worked import worked_examples
from autotelic.memory import Demonstration
from autotelic.serving import Sampling
from autotelic.store import EvaluationRow, GateRow, PolicyRow, SuiteRow, TaskRow

__all__ = ["answer_suite", "draw_suite", "evaluate", "finish", "fresh_suite", "gate", "prepare"]


async def prepare(s: Session) -> dict[str, Any]:
    """Round 0: draw the fixed suites and the real set, test the evaluator, fill the memory, measure the base."""
    settings = s.config.evaluate
    s.progress.start("suites")
    await asyncio.to_thread(draw_suite, s, "sealed", settings.sealed)
    await asyncio.to_thread(draw_suite, s, "frozen", settings.frozen)
    real = await asyncio.to_thread(_real_set, s)
    s.progress.stop("suites")
    report = await self_test(s.environment, s.ledger.suite("frozen"))
    shown = [Demonstration.of(task) for task in real] if s.plain else await worked_examples(s, real)
    await s.memory.add(shown)
    await s.serve(0)
    await answer_suite(s, "frozen", 0, 0)
    return {"sealed": settings.sealed, "frozen": settings.frozen, "real": len(shown), "selftest": report.model_dump()}


def draw_suite(s: Session, suite: SuiteName, n: int, round: int = 0) -> None:
    """Draw a suite of `n` tasks that the run has not met, nor a near copy: in no suite, proposal or the real set."""
    if s.ledger.count(SuiteRow, suite=suite, round=round):
        return
    draw = s.environment.suite_tasks if isinstance(s.environment, HoldsBack) else s.environment.tasks
    want = n
    while True:
        new = unmet(s, draw(want, s.seed("suite", suite, round)))
        if len(new) >= n:
            break
        if want > 8 * n:
            raise EnvironmentFailure(
                f"the {suite} suite needs {n} tasks that the run has not met, the environment has {len(new)} among "
                f"{want}. Ask for a smaller evaluate.{suite}, or widen the environment's levels."
            )
        want *= 2
    s.ledger.add_suite(suite, _balanced(new, n), round=round)


def _balanced(tasks: list[Task], n: int) -> list[Task]:
    """Choose `n` tasks round-robin over families, in the order drawn."""
    queues: dict[str, list[Task]] = {}
    for task in tasks:
        queues.setdefault(task.family, []).append(task)
    chosen: list[Task] = []
    while len(chosen) < n:
        for queue in queues.values():
            if queue and len(chosen) < n:
                chosen.append(queue.pop(0))
    return chosen


def _real_set(s: Session) -> list[Task]:
    """Draw the small real set once: tasks whose right answer is known and may be shown and trained on."""
    rows = s.ledger.rows(TaskRow, origin=Origin.REAL.value, order="id")
    if rows:
        return list(s.ledger.tasks(r.id for r in rows).values())
    n = s.config.memory.real * len(s.environment.families)
    drawn = s.environment.tasks(3 * n, s.seed("real")) if n else []
    usable = [t for t in unmet(s, drawn) if t.answer is not None]
    real = [t.model_copy(update={"origin": Origin.REAL}) for t in _balanced(usable, min(n, len(usable)))]
    s.ledger.add_tasks(real)
    return real


async def fresh_suite(s: Session, round: int) -> None:
    """Draw the round's fresh suite, before anything of the round is proposed."""
    await asyncio.to_thread(draw_suite, s, "fresh", s.config.evaluate.fresh, round)


async def answer_suite(
    s: Session, suite: SuiteName, round: int, policy: int, *, memory_of: int | None = None, limit: int | None = None
) -> list[EvaluationRow]:
    """Have a policy answer a suite greedily, as far as it has not; return all of its rows.

    Args:
        s: the session; the policy is served, proved, before the first question.
        suite: which suite.
        round: the suite's round (0 for frozen and sealed).
        policy: who answers.
        memory_of: answer with the demonstrations that were there before this round; `None` is zero-shot.
        limit: only the first so many tasks.
    """
    helped, kept = memory_of is not None, kept_as(suite, round, memory_of)
    tasks = s.ledger.suite(suite, round=round)[:limit]
    key: dict[str, Any] = {"suite": kept, "round": round, "policy": policy, "memory": helped}
    done = set(s.ledger.column(EvaluationRow, "task_id", **key))
    todo = [t for t in tasks if t.id not in done]
    if todo:
        await s.serve(policy)
        recalled = await recall(s, todo, memory_of) if memory_of is not None else {}
        graph = build_solve(s.solver)
        sampling = Sampling(n=1, temperature=0.0, max_tokens=s.config.solve.max_tokens)

        async def ask(task: Task) -> None:
            state: SolveState = {
                "task": task,
                "recalled": recalled.get(task.id, []),
                "sampling": sampling,
            }
            result = await graph.ainvoke(state)
            owner = "/".join(map(str, ("eval", *key.values(), task.id)))
            (attempt,) = result["attempts"]
            s.ledger.add([_row(key, task, attempt), *tool_calls(owner, round, attempt)])

        name = f"{suite}{' + memory' if helped else ''}: policy-{policy}"
        await s.each(name, todo, ask, done=len(tasks) - len(todo))
    order = {t.id: i for i, t in enumerate(tasks)}
    rows = [r for r in s.ledger.rows(EvaluationRow, **key) if r.task_id in order]
    return sorted(rows, key=lambda row: order[row.task_id])


def kept_as(suite: str, round: int, memory_of: int | None) -> str:
    """Return the suite's name in the ledger's answers; a suite that stays while the memory grows has one for each."""
    return suite if round or memory_of is None else f"{suite}, memory before round {memory_of}"


def _row(key: dict[str, Any], task: Task, attempt: Attempt) -> EvaluationRow:
    return EvaluationRow(
        **key,
        task_id=task.id,
        family=task.family,
        text=attempt.completion.text,
        answer=attempt.answer,
        score=full_marks(attempt.score),
        reason=attempt.reason,
        completion_tokens=attempt.completion.completion_tokens,
    )


async def evaluate(s: Session, round: int, champion: int, candidate: int) -> dict[str, Any]:
    """Candidate and champion on the same suites, and the 2x2 of weights and memory."""
    s.ledger.add_suite("regression", _past_failures(s, round, champion), round=round)
    await self_test(s.environment, s.ledger.suite("fresh", round=round))
    for policy in (candidate, champion):
        await answer_suite(s, "fresh", round, policy)
        await answer_suite(s, "frozen", 0, policy)
        await answer_suite(s, "regression", round, policy)
        if s.config.evaluate.two_by_two:
            limit = s.config.evaluate.two_by_two
            await answer_suite(s, "fresh", round, policy, memory_of=round, limit=limit)
    return {}


def _past_failures(s: Session, round: int, champion: int) -> list[Task]:
    """Tasks of earlier fresh suites that another policy than the champion failed, as many of each round as can be.

    The champion's own answers do not count: chosen by what it solved it would start at 100%, and any candidate seem to
    fall; chosen by what it failed, any candidate would seem to gain. Of one round alone it would often be what a near
    copy of the champion failed, which neither side solves.
    """
    failed = [
        [row.task_id for row in rows if row.policy != champion and not solved(row.score)]
        for earlier in range(round - 1, 0, -1)
        if (rows := s.ledger.rows(EvaluationRow, suite="fresh", round=earlier, memory=False, order="task_id"))
    ]
    in_turn = chain.from_iterable(zip_longest(*failed))
    ids = [task for task in dict.fromkeys(in_turn) if task is not None][: s.config.evaluate.regression]
    known = s.ledger.tasks(ids)
    return [known[i] for i in ids]


async def gate(
    s: Session,
    round: int,
    champion: int,
    candidate: int,
    ask: Callable[[dict[str, Any]], Any] = interrupt,
    *,
    wanted: bool = False,
) -> dict[str, Any]:
    """Decide, write the decision, and see to it that the server answers with whoever is champion now.

    Args:
        s: the session.
        round: of the candidate.
        champion: number of the policy that is served.
        candidate: number of the policy that may be.
        ask: puts the question of a promotion to a person, if the config wants that; only `True` is a yes.
        wanted: whether the candidate was made for what a person said: it must not fall, and the person decides.
    """
    row = s.ledger.get(GateRow, round)
    if row is None:
        decision, evidence = await _decide(s, round, champion, candidate, wanted=wanted)
        now = s.ledger.champion().number
        if now not in (champion, candidate):
            overtaken = f"a person made policy-{now} the champion meanwhile"
            decision = Decision(promote=False, reasons=(overtaken, *decision.reasons))
        if decision.promote and ("promotion" in s.config.oversight or wanted):
            question = {"ask": f"promote policy-{candidate}?", "reasons": list(decision.reasons)}
            if not decided(s.ledger, "promotion", f"policy-{candidate}", question, ask):
                decision = Decision(promote=False, reasons=("a person refused the promotion", *decision.reasons))
        row = GateRow(
            round=round,
            champion=champion,
            candidate=candidate,
            promoted=decision.promote,
            reasons=list(decision.reasons),
            evidence=evidence,
        )
        s.ledger.add([row])
    _carry_out(s, row)
    winner = s.ledger.champion().number
    await s.serve(winner, "switch" if row.promoted else "rollback")
    s.progress.say(f"gate: policy-{candidate} {'promoted' if row.promoted else 'not promoted'}. {row.reasons[0]}")
    learned = await consolidate(s, round, winner) if row.promoted and s.config.memory.consolidate else {}
    return {"champion": winner, "promoted": row.promoted, **learned}


def _carry_out(s: Session, decision: GateRow) -> None:
    """Crown or reject the candidate, once: what a person has made of it or of the champion since then stands."""
    row = s.ledger.get(PolicyRow, decision.candidate)
    if row is None or row.state != PolicyState.CANDIDATE.value:
        return
    if decision.promoted and s.ledger.champion().number == decision.champion:
        s.ledger.crown(row.number)
        return
    row.state = PolicyState.REJECTED.value
    s.ledger.put(row)


async def _decide(
    s: Session, round: int, champion: int, candidate: int, *, wanted: bool
) -> tuple[Decision, dict[str, Any]]:
    if unchanged := s.ledger.node(round, "deliver").detail.get("unchanged"):
        return Decision(promote=False, reasons=(unchanged,)), {}
    confidence = s.config.gate.confidence
    found = {
        suite: compare_policies(s.ledger, suite, of, champion, candidate, confidence=confidence)
        for suite, of in (("fresh", round), ("frozen", 0), ("regression", round))
    }
    judge = decide_wanted if wanted else decide
    failures = s.ledger.count(SuiteRow, suite="regression", round=round) > 0
    decision = judge(
        s.config.gate,
        fresh=found["fresh"],
        frozen=found["frozen"],
        regression=found["regression"],
        has_regression=failures,
    )
    return decision, {name: c.model_dump() if c else None for name, c in found.items()}


async def finish(s: Session, champion: int) -> dict[str, Any]:
    """Open the sealed suite, once: base against champion, zero-shot."""
    for policy in dict.fromkeys((champion, 0)):
        await answer_suite(s, "sealed", 0, policy)
    await s.serve(champion)
    return {}
