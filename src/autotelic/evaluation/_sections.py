"""The parts of a report that describe one round, each a function from ledger rows to plain JSON data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sqlmodel import col, select

from autotelic.core.words import Origin, Task
from autotelic.environments import solved
from autotelic.evaluation.baselines import ConstantBaseline, constant_baselines, overall_baseline
from autotelic.evaluation.measure import accuracy, answers, compare_policies
from autotelic.store import (
    CritiqueRow,
    CurationRow,
    DeliveryRow,
    EpisodeRow,
    EvaluationRow,
    Ledger,
    NodeRow,
    ProposalRow,
    RefinementRow,
    SuiteRow,
    ToolCallRow,
)

__all__ = [
    "Json",
    "Source",
    "by_family",
    "delivery",
    "funnel",
    "proposer",
    "refinement",
    "samples",
    "seconds",
    "solver",
    "suites",
    "tools",
]

Json = dict[str, Any]

_TEXT = 1200  # characters kept of one text of a sample
_TURNS = 16  # messages kept of one sample


def seconds(ledger: Ledger, round: int) -> dict[str, float]:
    """Seconds by node, over all attempts."""
    return {row.node: row.seconds for row in ledger.rows(NodeRow, round=round)}


def funnel(ledger: Ledger, round: int) -> dict[str, int]:
    """Curated items by fate: `kept`, and the reasons of those dropped, most frequent first."""
    rows = ledger.rows(CurationRow, round=round)
    fates = Counter("kept" if row.kept else row.reason for row in rows)
    return dict(sorted(fates.items(), key=lambda item: (item[0] != "kept", -item[1], item[0])))


def tools(ledger: Ledger, round: int) -> dict[str, dict[str, int]]:
    """Calls of each tool in the round's episodes by what came of them: `ok`, or the reason why not."""
    calls: dict[str, Counter[str]] = {}
    for row in ledger.rows(ToolCallRow, round=round, order=["owner", "index"]):
        if not row.owner.startswith("eval/"):
            calls.setdefault(row.tool, Counter())[row.reason] += 1
    return {tool: dict(sorted(found.items())) for tool, found in sorted(calls.items())}


def refinement(ledger: Ledger, round: int) -> Json | None:
    """What the strategy of the round's rollouts cost (means) and did: stopped answers, flips of revised ones."""
    rows = ledger.rows(RefinementRow, round=round)
    if not rows:
        return None
    scores = dict(ledger.columns(EpisodeRow, "id", "score", round=round))
    judged = [(row.first_score, scores[row.episode]) for row in rows]
    flips = [(solved(before), solved(after)) for before, after in judged if None not in (before, after)]
    return {
        "strategy": rows[0].strategy,
        "answers": len(rows),
        "calls": fmean(row.calls for row in rows),
        "tokens": fmean(row.prompt_tokens + row.completion_tokens for row in rows),
        "seconds": fmean(row.seconds for row in rows),
        "stopped": sum(bool(row.stopped) for row in rows),
        "mended": flips.count((False, True)),
        "spoiled": flips.count((True, False)),
    }


def delivery(ledger: Ledger, round: int, candidate: int | None) -> tuple[float | None, Json | None]:
    """Seconds and proof of the candidate's delivery from the trainer; the last one if a crash made it happen again."""
    rows = ledger.rows(DeliveryRow, round=round, policy=candidate, kind="train", order="id") if candidate else []
    if not rows:
        return None, None
    keys = {"to_trainer", "to_trainer_mean", "to_previous", "to_previous_mean"}
    return rows[-1].seconds, rows[-1].model_dump(include=keys)


@dataclass(frozen=True)
class Source:
    """What figures are computed from: the ledger, the confidence of the run's gate, tasks to choose constants on."""

    ledger: Ledger
    confidence: float
    pool: Sequence[Task]

    @classmethod
    def of(cls, ledger: Ledger, confidence: float) -> Source:
        """Read the pool: every task of the fresh and frozen suites."""
        ids = [row.task_id for row in ledger.rows(SuiteRow, suite=["fresh", "frozen"])]
        return cls(ledger, confidence, list(ledger.tasks(ids).values()))

    def estimate(self, rows: Iterable[EvaluationRow]) -> Json | None:
        """Accuracy over evaluation rows as JSON data."""
        found = accuracy(rows, confidence=self.confidence)
        return found.model_dump() if found else None

    def constants(self, suite: str, round: int) -> list[ConstantBaseline]:
        """Best constant answers of a suite, chosen on the run's other fresh and frozen tasks where there are any."""
        return constant_baselines(self.ledger.suite(suite, round=round), self.pool)


def suites(source: Source, round: int, champion: int, candidate: int) -> dict[str, Json]:
    """Accuracy of champion and candidate on each suite of the round, their comparison, and the best constant."""
    found: dict[str, Json] = {}
    for suite, of in (("fresh", round), ("frozen", 0), ("regression", round)):
        comparison = compare_policies(source.ledger, suite, of, champion, candidate, confidence=source.confidence)
        if comparison is None:
            continue
        sides = {"champion": champion, "candidate": candidate}
        found[suite] = {
            **{k: source.estimate(answers(source.ledger, suite, of, v).values()) for k, v in sides.items()},
            "comparison": comparison.model_dump(),
            "constant": overall_baseline(source.constants(suite, of)),
        }
    return found


def by_family(source: Source, suite: str, round: int, before: int, after: int) -> list[Json]:
    """Accuracy of two policies on a suite by family, beside the family's best constant answer."""
    first, second = (answers(source.ledger, suite, round, policy) for policy in (before, after))
    constant = {row.family: row for row in source.constants(suite, round)}
    groups: dict[str, list[str]] = defaultdict(list)
    for task, row in second.items():
        if task in first:
            groups[row.family].append(task)
    rows = []
    for family, tasks in sorted(groups.items()):
        best = constant.get(family)
        rows.append(
            {
                "family": family,
                "before": source.estimate(first[t] for t in tasks),
                "after": source.estimate(second[t] for t in tasks),
                "constant": best.model_dump() if best else None,
            }
        )
    return rows


def proposer(ledger: Ledger, round: int) -> Json:
    """What the proposer wrote: valid (becomes a task, or repeats one) and novel (valid and new), as shares."""
    rows = ledger.rows(ProposalRow, round=round)
    written = [row for row in rows if row.origin == Origin.PROPOSER.value]
    reasons = Counter(row.reason for row in written)
    novel = sum(row.task_id is not None for row in written)
    valid = novel + sum(row.task_id is None and row.reason == "duplicate" for row in written)
    return {
        "written": len(written),
        "explored": len(rows) - len(written),
        "valid": valid,
        "novel": novel,
        "validity": valid / len(written) if written else None,
        "novelty": novel / valid if valid else None,
        "reasons": dict(reasons.most_common()),
        "families": dict(sorted(Counter(row.family for row in written if row.task_id is not None).items())),
    }


def solver(ledger: Ledger, round: int) -> Json:
    """How the round's tasks were solved: mean and best of the samples, and the learnable share, also by family."""
    query = select(EpisodeRow.family, EpisodeRow.task_id, EpisodeRow.score, EpisodeRow.reason)
    with ledger.session() as session:
        rows = session.exec(query.where(col(EpisodeRow.round) == round)).all()
    tasks: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for family, task, score, _ in rows:
        if score is not None:
            tasks[family, task].append(solved(score))
    families: dict[str, list[list[bool]]] = defaultdict(list)
    for (family, _), attempts in sorted(tasks.items()):
        families[family].append(attempts)
    return {
        "episodes": len(rows),
        "reasons": dict(Counter(row[3] for row in rows).most_common()),
        **_rates(list(tasks.values())),
        "families": {family: _rates(attempts) for family, attempts in families.items()},
    }


def _rates(tasks: Sequence[Sequence[bool]]) -> Json:
    n, attempts = len(tasks), sum(len(t) for t in tasks)
    return {
        "tasks": n,
        "mean": sum(sum(t) for t in tasks) / attempts if attempts else None,
        "best": sum(any(t) for t in tasks) / n if n else None,
        "learnable": sum(any(t) and not all(t) for t in tasks) / n if n else None,
    }


def samples(ledger: Ledger, round: int, per_kind: int = 2) -> list[Json]:
    """A few right and a few wrong trajectories of a round, from as many families as can be, as readable data."""
    query = select(EpisodeRow.id, EpisodeRow.family, EpisodeRow.score).where(col(EpisodeRow.round) == round)
    with ledger.session() as session:
        rows = sorted((row[0], row[1], solved(row[2])) for row in session.exec(query).all() if row[2] is not None)
    chosen: list[str] = []
    for right in (True, False):
        seen: Counter[str] = Counter()
        ranked = []
        for id_, family, ok in rows:
            if ok is right:
                ranked.append((seen[family], (round + len(seen)) % 7, id_))
                seen[family] += 1
        chosen += [id_ for *_, id_ in sorted(ranked)[:per_kind]]
    episodes = ledger.rows(EpisodeRow, id=chosen) if chosen else []
    episodes.sort(key=lambda row: chosen.index(row.id))
    tasks = ledger.tasks(row.task_id for row in episodes)
    critiques = {row.trajectory_id: row for row in ledger.rows(CritiqueRow, trajectory_id=chosen)} if chosen else {}
    return [_sample(row, tasks.get(row.task_id), critiques.get(row.id)) for row in episodes]


def _sample(row: EpisodeRow, task: Task | None, critique: CritiqueRow | None) -> Json:
    bare, memory = _split_memory(row.messages, row.bare_messages)
    return {
        "id": row.id,
        "family": row.family,
        "policy": row.policy,
        "right": solved(row.score),
        "score": row.score,
        "reason": row.reason,
        "messages": [_turn(m) for m in [*bare, *row.turns][-_TURNS:]],
        "memory": [_turn(m) for m in memory[-_TURNS:]],
        "memory_ids": list(row.memory_ids),
        "text": _cut(row.text),
        "answer": None if row.answer is None else _cut(row.answer),
        "gold": None if task is None or task.answer is None else _cut(task.answer),
        "critique": critique.model_dump(include={"verdict", "confidence", "fault", "advice"}) if critique else None,
    }


def _split_memory(
    messages: Sequence[dict[str, str]], bare: Sequence[dict[str, str]]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Tell what memory added: the messages between the common beginning and the common end."""
    head = 0
    while head < min(len(messages), len(bare)) and messages[head] == bare[head]:
        head += 1
    tail = 0
    while tail < min(len(messages), len(bare)) - head and messages[-1 - tail] == bare[-1 - tail]:
        tail += 1
    return list(bare), list(messages[head : len(messages) - tail])


def _turn(message: dict[str, str]) -> dict[str, str]:
    return {"role": message.get("role", "?"), "content": _cut(message.get("content", ""))}


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[:_TEXT]} … ({len(text) - _TEXT} characters more in the ledger)"
