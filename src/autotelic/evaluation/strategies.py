"""What strategies are worth and cost: accuracy against tokens, paired with the first of them, and flips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean

from autotelic.core.html import card, document, pct, points, section, table
from autotelic.core.words import Frozen
from autotelic.environments import solved
from autotelic.evaluation import figures
from autotelic.evaluation.measure import full_marks
from autotelic.evaluation.stats import Comparison, Estimate, estimate, paired_bootstrap
from autotelic.store import StrategyRow

__all__ = ["StrategyFigures", "strategy_figures", "strategy_page", "told_stops"]


class StrategyFigures(Frozen):
    """One strategy on one suite."""

    strategy: str
    """As it is written in a config."""
    accuracy: Estimate | None
    """Share of right answers."""
    gain: Comparison | None
    """Against the first strategy, on the same tasks; `None` for the first."""
    calls: float
    """Requests to the model, mean over the tasks."""
    tokens: float
    """Tokens of prompts and completions, mean."""
    completion_tokens: float
    """Generated tokens, mean."""
    seconds: float
    """From question to answer, mean; many tasks were answered side by side."""
    stopped: dict[str, int]
    """What cut answers short (a bound of the budget, a failed call), and how many."""
    mended: int
    """Flips from wrong to right by revision."""
    spoiled: int
    """Flips from right to wrong by revision."""


def strategy_figures(
    answers: Mapping[str, Sequence[StrategyRow]], *, confidence: float = 0.95, seed: int = 0
) -> list[StrategyFigures]:
    """Return the figures of each strategy, in the order given; all have answered at least one task."""
    found = []
    first: dict[str, StrategyRow] = {}
    for strategy, rows in answers.items():
        by_task = {row.task_id: row for row in rows}
        shared = [task for task in first if task in by_task]
        gain = paired_bootstrap(
            [full_marks(first[task].score) for task in shared],
            [full_marks(by_task[task].score) for task in shared],
            confidence=confidence,
            seed=seed,
        )
        first = first or by_task
        judged = [(r.first_score, r.score) for r in rows if r.revised and None not in (r.first_score, r.score)]
        flips = [(solved(before), solved(after)) for before, after in judged]
        found.append(
            StrategyFigures(
                strategy=strategy,
                accuracy=estimate([full_marks(row.score) for row in rows], confidence=confidence),
                gain=gain,
                calls=fmean(row.calls for row in rows),
                tokens=fmean(row.prompt_tokens + row.completion_tokens for row in rows),
                completion_tokens=fmean(row.completion_tokens for row in rows),
                seconds=fmean(row.seconds for row in rows),
                stopped=dict(Counter(row.stopped for row in rows if row.stopped)),
                mended=flips.count((False, True)),
                spoiled=flips.count((True, False)),
            )
        )
    return found


def told_stops(stopped: Mapping[str, int]) -> str:
    """Return what cut answers short, in words, the most frequent first."""
    return ", ".join(f"{n} by {why[:60]}" for why, n in sorted(stopped.items(), key=lambda one: -one[1]))


def strategy_page(found: Sequence[StrategyFigures], title: str) -> str:
    """Return one self-contained page: accuracy against tokens, and the table of all figures."""
    spots = [
        figures.Spot(one.strategy, one.tokens, one.accuracy.mean, one.accuracy.low, one.accuracy.high)
        for one in found
        if one.accuracy is not None
    ]
    chart = figures.scatter("Accuracy against tokens", spots, x_name="tokens for an answer, prompts included")
    rows = [
        [
            f"{number}. {one.strategy}",
            pct(one.accuracy.mean if one.accuracy else None),
            f"[{pct(one.accuracy.low)}, {pct(one.accuracy.high)}]" if one.accuracy else "–",
            f"{points(one.gain.gain)} [{points(one.gain.low)}, {points(one.gain.high)}]" if one.gain else "–",
            f"{one.calls:.1f}",
            f"{one.tokens:,.0f}",
            f"{one.seconds:.2f}",
            f"{one.mended} / {one.spoiled}",
            told_stops(one.stopped) or "–",
        ]
        for number, one in enumerate(found, 1)
    ]
    head = ["strategy", "accuracy", "95%", "gain", "calls", "tokens", "seconds", "mended / spoiled", "stopped"]
    body = section(
        "strategies",
        "Accuracy against tokens",
        card("", f'<div class="scroll" role="region" tabindex="0" aria-label="Chart">{chart}</div>')
        + card("", table(head, rows, caption="Strategies", kind="named"), css="spaced"),
        lead="Whiskers are 95% intervals; the gain is paired with the first strategy on the same tasks. Flips are "
        "counted where a strategy revises its first draft.",
    )
    header = (
        f'<header class="top"><p class="word">autotelic <span>strategies</span></p><h1>{escape(title)}</h1></header>'
    )
    return document(title, f"{header}<main>{body}</main>")
