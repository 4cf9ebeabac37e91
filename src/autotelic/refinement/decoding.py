"""Decoding: one draft or many, and how one of many is chosen.

Samples of one prompt are asked for in one request, so that the server computes the prompt once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from autotelic.agents import ToolLoop
from autotelic.core.errors import UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Message
from autotelic.environments import KnowsForm
from autotelic.refinement.voting import decided, vote
from autotelic.refinement.work import Count, Draft, Heat, Strategy, Surety, Width, Work, strategy_of
from autotelic.serving import Sampling

__all__ = ["best_of", "direct", "guided", "self_consistency", "tool_loop", "universal"]

_SURETIES: dict[str, Surety] = {"certainty": "certainty", "likelihood": "likelihood"}


def direct() -> Strategy:
    """The model's answer: one greedy draft, or n samples."""

    async def strategy(work: Work, n: int = 1) -> list[Draft]:
        return await _sampled(work, n, "direct")

    return strategy


def guided(
    *,
    regex: str | None = None,
    grammar: str | None = None,
    schema: dict[str, Any] | None = None,
    choices: Annotated[tuple[str, ...], Field(min_length=1)] | None = None,
) -> Strategy:
    """The model's answer in a form that the server holds it to; by default the one that the environment knows.

    Args:
        regex: the answer matches it.
        grammar: the answer is a sentence of this EBNF grammar, which begins with `root`.
        schema: the answer is JSON that obeys this JSON schema.
        choices: the answer is one of these.

    Raises:
        UsageError: more than one of them is given.
    """
    forms = {"regex": regex, "grammar": grammar, "schema": schema, "choices": choices}
    given = {name: form for name, form in forms.items() if form is not None}
    if len(given) > 1:
        raise UsageError(f"guided takes one of {', '.join(forms)}; {len(given)} are given. Leave all but one out.")

    async def strategy(work: Work, n: int = 1) -> list[Draft]:
        form: dict[str, Any] = given
        if not form and isinstance(work.form, KnowsForm):
            form = {"regex": work.form.answer_regex(work.task)}
        return await _sampled(work, n, "guided", **form)

    return strategy


def tool_loop() -> Strategy:
    """Answers with tools: calls and results until there is an answer, within the work's bounds."""

    async def one(work: Work) -> Draft:
        if not work.toolbox.allowed:
            raise UsageError("tool_loop has no tools that may be called. Name some under tools.use.")
        loop = ToolLoop(work.meter, work.toolbox, work.bounds)
        sampling = Sampling(max_tokens=work.max_tokens, temperature=work.temperature, seed=derive(work.seed, "tools"))
        talk = await work.within(loop.answer(work.prompt(), sampling))
        answer = None if talk.answer is None else work.form.parse(work.task, talk.answer)
        return work.note(Draft(text=talk.turns[-1].completion.text, answer=answer, by="tool_loop"))

    return strategy_of(one)


def self_consistency(
    inner: Strategy | None = None,
    *,
    n: Width = 8,
    batch: Count | None = None,
    confidence: Annotated[float, Field(gt=0, le=1)] = 0.95,
    weigh: Literal["equal", "certainty", "likelihood", "critic"] = "equal",
    heat: Heat | None = None,
) -> Strategy:
    """The most frequent answer of up to `n` drafts.

    Sources: arXiv 2203.11171 (self-consistency); arXiv 2305.11860 (stopping when the vote is decided). Deviations: the
    first draft is the one that `inner` would give by itself, so that a tie changes nothing; with weights, the counts
    alone decide when to stop.

    Args:
        inner: makes the drafts; `direct` by default.
        n: most drafts.
        batch: drafts between two looks at the vote; half of `n` by default, `n` never stops early.
        confidence: see `decided`.
        weigh: `certainty` weighs a draft by the model's certainty of it, `likelihood` by its tokens' mean probability,
            `critic` by the critic's confidence.
        heat: temperature of the drafts after the first; by default the work's.
    """
    inner = inner or direct()
    step = batch or max(2, n // 2)

    async def one(work: Work) -> Draft:
        asked = replace(work.heated(heat), surety=_SURETIES.get(weigh, work.surety))
        drafts = list(await inner(asked.aside(), 1))
        work.note(_voted(drafts))
        made = 1
        while made < n and not decided(vote(drafts).counts, n - made, confidence):
            size = min(step, n - made)
            drafts += await inner(asked.aside().branch(made), size)
            made += size
            work.note(_voted(drafts))
        if weigh == "equal":
            return _voted(drafts)
        weights = [_weight(score, weigh) for score in await _scores(work.aside(), drafts, weigh)]
        weighed = [draft.model_copy(update={"score": weight}) for draft, weight in zip(drafts, weights, strict=True)]
        return work.note(_voted(weighed, weights))

    return strategy_of(one)


def _voted(drafts: Sequence[Draft], weights: Sequence[float] | None = None) -> Draft:
    """Return the answer that a vote over drafts gives."""
    winner, share, _ = vote(drafts, weights)
    return winner.model_copy(update={"by": "self_consistency", "score": share, "of": tuple(drafts)})


def best_of(
    inner: Strategy | None = None,
    *,
    n: Width = 8,
    by: Literal["certainty", "likelihood", "critic", "checker"] = "certainty",
    heat: Heat | None = None,
) -> Strategy:
    """The best of `n` drafts.

    Sources: arXiv 2110.14168 (best of n by a verifier); arXiv 2502.18581 (self-certainty). Deviations: see `Surety`;
    drafts that nothing is known of, because what made them gives no log-probabilities, vote.

    Args:
        inner: makes the drafts; `direct` by default.
        n: drafts.
        by: the model's certainty or likelihood, the critic, or the environment's checker where that may be used.
        heat: temperature of the drafts; by default the work's.
    """
    inner = inner or direct()

    async def one(work: Work) -> Draft:
        if by == "checker":
            work.require_checker()
        desk = replace(work.heated(heat), surety=_SURETIES.get(by, work.surety)).branch(0)
        drafts = await inner(desk, n)
        scores = await _scores(work, drafts, by)
        scored = [draft.model_copy(update={"score": score}) for draft, score in zip(drafts, scores, strict=True)]
        best = max(scored, key=_worth) if any(score is not None for score in scores) else vote(scored).winner
        return work.note(best.model_copy(update={"by": "best_of", "of": tuple(scored)}))

    return strategy_of(one)


def universal(inner: Strategy | None = None, *, n: Width = 5) -> Strategy:
    """The draft that the model itself finds most consistent with the others: a vote where no two texts are equal.

    Source: arXiv 2311.17311, "Universal Self-Consistency for Large Language Model Generation".

    Args:
        inner: makes the drafts; `direct` by default.
        n: drafts.
    """
    inner = inner or direct()

    async def one(work: Work) -> Draft:
        of = tuple(await inner(work.branch(0), n))
        drafts = [draft for draft in of if draft.answer is not None]
        if not drafts:
            return Draft(text="", answer=None, by="universal", of=of)
        work.note(drafts[0])
        listed = "\n\n".join(f"Answer {i}: {draft.answer}" for i, draft in enumerate(drafts, 1))
        ask = Message(
            role="user",
            content=f"{work.task.question}\n\n{listed}\n\nWhich answer agrees most with the others? Reply its number.",
        )
        said = await work.choose([ask], [str(i) for i in range(1, len(drafts) + 1)])
        chosen = drafts[int(said) - 1] if said else drafts[0]
        return work.note(chosen.model_copy(update={"by": "universal", "of": of}))

    return strategy_of(one)


async def _sampled(work: Work, n: int, by: str, **sampling: Any) -> list[Draft]:
    """Ask for drafts in one request; `sampling` holds fields of `Sampling`."""
    completions = await work.ask(work.prompt(), n, **sampling)
    return [work.note(work.draft(completion, by)) for completion in completions]


def _worth(draft: Draft) -> tuple[bool, bool, float]:
    return draft.answer is not None, draft.score is not None, draft.score or 0.0


async def _scores(work: Work, drafts: Sequence[Draft], by: str) -> list[float | None]:
    """Return what is thought of each draft; of equal answers the critic is asked once. The best so far is noted."""
    known: dict[str | None, float | None] = {}
    for draft in drafts:
        if by not in _SURETIES and draft.answer not in known:
            known[draft.answer] = await _said_of(work, draft, by)
            work.note(max((one for one in drafts if one.answer in known), key=lambda one: known[one.answer] or 0.0))
    return [draft.certainty if by in _SURETIES else known[draft.answer] for draft in drafts]


def _weight(score: float | None, weigh: str) -> float:
    """Return what a draft's word counts; of what nothing is known, as much as a coin says."""
    if weigh == "likelihood":
        return 1.0 if score is None else math.exp(score)
    if weigh == "certainty":
        return 1.0 if score is None else score
    return 0.5 if score is None else score


async def _said_of(work: Work, draft: Draft, by: str) -> float | None:
    if by == "critic":
        return (await work.judge(draft)).confidence
    right = await work.check(draft)
    return None if right is None else float(right)
