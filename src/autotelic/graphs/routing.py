"""Routes of a run: learned on one suite, proved on another by the gate that decides about weights, kept as versions."""

from __future__ import annotations

from collections.abc import Sequence

from autotelic.core.errors import UsageError
from autotelic.evaluation import Comparison, bootstrap_seed, decide, full_marks, learn_routes, paired_bootstrap
from autotelic.graphs.refining import answer_suite_by
from autotelic.graphs.session import Session
from autotelic.store import RouteRow, StrategyRow

__all__ = ["learn_in_run"]

PLAIN = "direct"


async def learn_in_run(
    s: Session, strategies: Sequence[str], policy: int, learn: int, prove: int, price: float
) -> RouteRow:
    """Learn routes on the fresh suite of one round and prove them on that of another, and on `frozen`.

    Args:
        s: the session.
        strategies: what is weighed against answering directly.
        policy: who answers.
        learn: round whose fresh suite is learned on.
        prove: round whose fresh suite decides; another one.
        price: see `learn_routes`.

    Raises:
        UsageError: the rounds are the same.
    """
    if learn == prove:
        raise UsageError(f"routes learned on fresh:{learn} cannot be proved on it: name another round's fresh suite.")
    names = [PLAIN, *(name for name in strategies if name != PLAIN)]
    seed = bootstrap_seed(s.config.seed)
    answers = {name: await answer_suite_by(s, name, "fresh", learn, policy) for name in names}
    choices = learn_routes(answers, price=price, confidence=s.config.gate.confidence, seed=seed)
    routes = {one.family: one.strategy for one in choices if one.chosen}
    row = RouteRow(
        version=max(s.ledger.column(RouteRow, "version"), default=0) + 1,
        policy=policy,
        promoted=False,
        routes=routes,
        learned_on=f"fresh:{learn}",
        proved_on=f"fresh:{prove}",
        choices=[one.model_dump(mode="json") for one in choices],
        reasons=["no strategy is worth its tokens in any family"],
    )
    if routes:
        fresh = await _routed(s, routes, "fresh", prove, policy, seed)
        frozen = await _routed(s, routes, "frozen", 0, policy, seed)
        decision = decide(s.config.gate, fresh=fresh, frozen=frozen)
        row.promoted, row.reasons = decision.promote, list(decision.reasons)
        row.evidence = fresh.model_dump(mode="json") if fresh else {}
    s.ledger.add([row])
    return row


async def _routed(
    s: Session, routes: dict[str, str], suite: str, round: int, policy: int, seed: int
) -> Comparison | None:
    """Compare direct answers to a suite with those by the routes; only the families that have a route differ."""
    plain = {row.task_id: row for row in await answer_suite_by(s, PLAIN, suite, round, policy)}
    routed: dict[str, StrategyRow] = dict(plain)
    for strategy in sorted(set(routes.values())):
        families = {family for family, name in routes.items() if name == strategy}
        for row in await answer_suite_by(s, strategy, suite, round, policy, families=families):
            routed[row.task_id] = row
    return paired_bootstrap(
        [full_marks(plain[task].score) for task in plain],
        [full_marks(routed[task].score) for task in plain],
        confidence=s.config.gate.confidence,
        seed=seed,
    )
