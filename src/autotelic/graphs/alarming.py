"""From the ledger's rows of a round to the alarms that may stop the run."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from statistics import fmean
from typing import Any

from autotelic.core.words import Origin
from autotelic.evaluation import RoundStatistics, check_alarms, paired_bootstrap
from autotelic.graphs.session import Session
from autotelic.store import AlarmRow, EpisodeRow, EvaluationRow, GateRow, ProposalRow

__all__ = ["raise_alarms"]


async def raise_alarms(s: Session, round: int) -> str | None:
    """Write the alarms of a round into the ledger; return the first one's message, `None` if all is quiet."""
    alarms = check_alarms(_statistics(s, round), s.config.alarms)
    s.ledger.add(AlarmRow(round=round, **alarm.model_dump()) for alarm in alarms)
    for alarm in alarms:
        s.progress.say(f"alarm: {alarm.message}")
    return alarms[0].message if alarms else None


def _statistics(s: Session, round: int) -> RoundStatistics:
    proposals = s.ledger.rows(ProposalRow, round=round)
    own = [p for p in proposals if p.origin == Origin.PROPOSER.value]
    reasons = Counter(s.ledger.column(EpisodeRow, "reason", round=round))
    row = s.ledger.get(GateRow, round)
    newest = row.candidate if row else s.ledger.champion().number
    answers, golds = _answers(s, newest)
    base_tokens, new_tokens = (_tokens(_frozen(s, policy)) for policy in (0, newest))
    return RoundStatistics(
        answers=answers if newest else {},
        golds=golds,
        episode_reasons=dict(reasons),
        proposal_reasons=dict(Counter(p.reason for p in own)),
        families=s.environment.families,
        families_seen=sorted({p.family for p in proposals if p.task_id}),
        gains_over_base=_gains(s),
        mean_tokens=new_tokens,
        mean_tokens_base=base_tokens,
        text_logprob=_general_text(s, newest),
        text_logprob_base=_general_text(s, 0),
    )


def _answers(s: Session, policy: int) -> tuple[dict[str, list[str | None]], dict[str, list[str]]]:
    """A policy's answers to the frozen suite and the gold ones, by family.

    A task that it has no answer to counts only where an earlier policy had one: the base mostly has none.
    """
    found = s.ledger.columns(EvaluationRow, "policy", "task_id", "answer", suite="frozen", round=0, memory=False)
    answered = {task for number, task, answer in found if number <= policy and answer is not None}
    rows = [r for r in _frozen(s, policy) if r.task_id in answered]
    tasks = s.ledger.tasks(r.task_id for r in rows)
    answers: dict[str, list[str | None]] = {}
    golds: dict[str, list[str]] = {}
    for r in rows:
        answers.setdefault(r.family, []).append(r.answer)
        if (gold := tasks[r.task_id].answer) is not None:
            golds.setdefault(r.family, []).append(gold)
    return answers, golds


def _frozen(s: Session, policy: int) -> list[EvaluationRow]:
    return s.ledger.rows(EvaluationRow, suite="frozen", round=0, policy=policy, memory=False, order="task_id")


def _tokens(rows: list[EvaluationRow]) -> float | None:
    return fmean(r.completion_tokens for r in rows) if rows else None


def _general_text(s: Session, policy: int) -> float:
    """Mean log-probability of the fixed canary texts, which the trainer computed from the policy's own weights.

    They are all of the base's canary, and the beginning of every other.
    """
    base, own = (list(chain.from_iterable(s.policy(number).canary.logprobs)) for number in (0, policy))
    return fmean(own[: len(base)])


def _gains(s: Session) -> list[float | None]:
    base = {r.task_id: r.score for r in _frozen(s, 0)}
    gains: list[float | None] = []
    for row in s.ledger.rows(GateRow, order="round"):
        after: dict[str, Any] = {r.task_id: r.score for r in _frozen(s, row.candidate)}
        shared = [t for t in base if t in after]
        found = paired_bootstrap([base[t] for t in shared], [after[t] for t in shared], resamples=1)
        gains.append(found.gain if found else None)
    return gains
