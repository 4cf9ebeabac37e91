"""Routes of a run: learned on one suite, proved on another by the gate that decides about weights, kept as versions.

A run of one round has one fresh suite; then half of each family's tasks are learned on and the other half prove.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotelic.core.errors import UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Task
from autotelic.evaluation import (
    Comparison,
    RoutesConfig,
    bootstrap_seed,
    critic_gap,
    decide,
    full_marks,
    paired_bootstrap,
    search_routes,
)
from autotelic.graphs.refining import answer_suite_by
from autotelic.graphs.session import Session
from autotelic.graphs.strategy_solver import proofs_on
from autotelic.refinement import consults_critic, uses
from autotelic.store import PromptRow, RouteRow, StrategyRow, SuiteRow

__all__ = ["learn_in_run"]

PLAIN = "direct"


@dataclass(frozen=True)
class _Part:
    """A suite, or some tasks of it."""

    suite: str
    round: int
    tasks: Sequence[Task]
    name: str


async def learn_in_run(
    s: Session,
    strategies: Sequence[str],
    policy: int,
    config: RoutesConfig,
    *,
    learn: int | None = None,
    prove: int | None = None,
) -> RouteRow:
    """Learn routes on the fresh suite of one round and prove them on that of another, and on `frozen`.

    A strategy that asks the critic is not weighed unless this policy's critic is shown to be better than chance: what
    such a strategy gains would not be the critic's doing, and is to be had without it.

    Args:
        s: the session.
        strategies: what is weighed against answering directly.
        policy: who answers.
        config: price and budget; the confidence is the gate's.
        learn: round whose fresh suite is learned on; by default the first.
        prove: round whose fresh suite decides; by default the first other one. If it is the same, the suite is halved.

    Raises:
        UsageError: there is no such suite, or a strategy is to be a route to itself.
    """
    learning, proving = _parts(s, learn, prove)
    _refuse_auto(strategies)
    unfit = _unfit(s, strategies, policy, proving)
    names = [PLAIN, *(name for name in strategies if name != PLAIN and name not in unfit)]
    seed = bootstrap_seed(s.config.seed)

    async def ask(strategy: str, ids: Sequence[str]) -> list[StrategyRow]:
        return await answer_suite_by(s, strategy, learning.suite, learning.round, policy, only=set(ids))

    tasks: dict[str, list[str]] = {}
    for task in learning.tasks:
        tasks.setdefault(task.family, []).append(task.id)
    config = config.model_copy(update={"confidence": s.config.gate.confidence})
    found = await search_routes(ask, tasks, names, config, seed=seed)
    routes = {one.family: one.strategy for one in found.choices if one.chosen}
    row = RouteRow(
        version=max(s.ledger.column(RouteRow, "version"), default=0) + 1,
        policy=policy,
        promoted=False,
        routes=routes,
        learned_on=learning.name,
        proved_on=proving.name,
        choices=[one.model_dump(mode="json") for one in found.choices],
        reasons=["no strategy is worth its tokens in any family"],
    )
    if routes:
        gate = s.config.gate.asked_again(proofs_on(s.ledger, policy, proving.round))
        fresh = await _routed(s, proving, routes, policy, gate.confidence)
        frozen = await _routed(
            s, _Part("frozen", 0, s.ledger.suite("frozen"), "frozen"), routes, policy, gate.confidence
        )
        decision = decide(gate, fresh=fresh, frozen=frozen)
        row.promoted, row.reasons = decision.promote, list(decision.reasons)
        row.evidence = fresh.model_dump(mode="json") if fresh else {}
    row.reasons += [*unfit.values(), f"learned with {found.calls} of {config.calls} calls"]
    s.ledger.add([row])
    return row


def _parts(s: Session, learn: int | None, prove: int | None) -> tuple[_Part, _Part]:
    """Return the tasks to learn on and those to prove on; no task is in both."""
    rounds = sorted(set(s.ledger.column(SuiteRow, "round", suite="fresh")))
    if not rounds:
        raise UsageError("the run has no fresh suite to learn routes on. Play a round first.")
    first = rounds[0] if learn is None else learn
    second = next((one for one in rounds if one != first), first) if prove is None else prove
    for one in (first, second):
        if one not in rounds:
            have = ", ".join(f"fresh:{round}" for round in rounds)
            raise UsageError(f"the run has no suite fresh:{one}. It has: {have}.")
    if first != second:
        both = [_Part("fresh", one, _drawn(s, one), f"fresh:{one}") for one in (first, second)]
        return both[0], both[1]
    families: dict[str, list[Task]] = {}
    for task in _drawn(s, first):
        families.setdefault(task.family, []).append(task)
    halves: list[list[Task]] = [[], []]
    for tasks in families.values():
        for index, task in enumerate(tasks):
            halves[index % 2].append(task)
    name = f"fresh:{first}, half of its tasks"
    return _Part("fresh", first, halves[0], name), _Part("fresh", first, halves[1], name.replace("half", "other half"))


def _drawn(s: Session, round: int) -> list[Task]:
    """Return a round's fresh tasks in an order of the run's seed's own."""
    return sorted(s.ledger.suite("fresh", round=round), key=lambda task: derive(s.config.seed, "routes", task.id))


def _refuse_auto(strategies: Sequence[str]) -> None:
    for name in strategies:
        if uses(name, "auto"):
            raise UsageError(f"{name} goes by the routes, so it can be none of them. Leave it out.")


def _unfit(s: Session, strategies: Sequence[str], policy: int, proving: _Part) -> dict[str, str]:
    """Return which strategies cannot be weighed or proved, and in words why that is."""
    return _unproved(s, strategies, proving) | _uncritical(s, strategies, policy)


def _unproved(s: Session, strategies: Sequence[str], proving: _Part) -> dict[str, str]:
    """Return which strategies have prompts that were evolved on the very tasks which are to prove something."""
    suite = f"{proving.suite}:{proving.round}"
    if not s.ledger.count(PromptRow, learned_on=suite):
        return {}
    why = f"Prompts were evolved on {suite}, so it proves nothing of them. Name another round with --prove."
    return {name: f"{name} was not weighed. {why}" for name in strategies if uses(name, "prompted")}


def _uncritical(s: Session, strategies: Sequence[str], policy: int) -> dict[str, str]:
    """Return which strategies rest on a critic that is not known to be good."""
    asking = [name for name in strategies if consults_critic(name)]
    gap = critic_gap(s.ledger, policy=policy, confidence=s.config.gate.confidence)
    if gap is not None and gap.above_chance:
        return {}
    why = gap.message if gap else f"No critique by policy-{policy} was ever compared with the checker."
    return {name: f"{name} asks the critic and was not weighed. {why}" for name in asking}


async def _routed(s: Session, part: _Part, routes: dict[str, str], policy: int, confidence: float) -> Comparison | None:
    """Compare direct answers with those by the routes; only the families that have a route differ."""

    async def by(strategy: str, tasks: Sequence[Task]) -> dict[str, StrategyRow]:
        ids = {task.id for task in tasks}
        rows = await answer_suite_by(s, strategy, part.suite, part.round, policy, only=ids)
        return {row.task_id: row for row in rows}

    plain = await by(PLAIN, part.tasks)
    routed = dict(plain)
    for strategy in sorted(set(routes.values())):
        routed |= await by(strategy, [task for task in part.tasks if routes.get(task.family) == strategy])
    return paired_bootstrap(
        [full_marks(plain[task].score) for task in plain],
        [full_marks(routed[task].score) for task in plain],
        confidence=confidence,
        seed=bootstrap_seed(s.config.seed),
    )
