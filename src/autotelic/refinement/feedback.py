"""Reasoning by feedback: a draft is criticised, and a better one made of it.

A revision takes a draft's place only where the evidence is for it, because small models revise right answers into wrong
ones at least as often as the other way. The drafts of a history stay in the answer, so that flips can be counted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

from autotelic.agents import ToolLoop
from autotelic.core.errors import UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Message
from autotelic.refinement.decoding import direct
from autotelic.refinement.work import Count, Draft, Share, Strategy, Work, strategy_of
from autotelic.serving import Sampling

__all__ = ["critic", "reflexion", "self_debug", "self_refine"]

Judge = Callable[[Work, Draft], Awaitable[tuple[Draft, str | None]]]
"""Scores a draft and says what is wrong with it; `None` if nothing can be said."""

REFLECT = "Say in one sentence what to do differently next time. Do not give the answer."
CHECK = "Check this answer with the tools. Then reply with the right answer."


def self_refine(
    inner: Strategy | None = None, *, rounds: Count = 2, accept: Share = 0.75, margin: Share = 0.25
) -> Strategy:
    """Draft, feedback, revision, until the critic accepts or the rounds are over.

    Source: arXiv 2303.17651, "Self-Refine: Iterative Refinement with Self-Feedback". Deviations: the feedback is the
    critic's; a revision is kept only if the critic prefers it by `margin`.

    Args:
        inner: makes the first draft; `direct` by default.
        rounds: most revisions.
        accept: confidence of the critic from which a draft is left as it is, in [0, 1].
        margin: by how much the critic must prefer a revision, in [0, 1].
    """
    return _revising(inner, "self_refine", _judged, rounds, accept, margin)


def self_debug(inner: Strategy | None = None, *, rounds: Count = 2) -> Strategy:
    """Run the answer on the examples that the task shows, and have what failed mended. For code.

    Source: arXiv 2304.05128, "Teaching Large Language Models to Self-Debug". Deviation: a revision is kept only if more
    of the examples come out. Where a task shows none the first draft is the answer.

    Args:
        inner: makes the first draft; `direct` by default.
        rounds: most revisions.
    """
    return _revising(inner, "self_debug", _tried, rounds, 1.0, 0.0)


def reflexion(
    inner: Strategy | None = None, *, tries: Count = 3, by: Literal["critic", "checker"] = "critic", accept: Share = 0.5
) -> Strategy:
    """Try, reflect on what went wrong, try again with that as advice.

    Source: arXiv 2303.11366, "Reflexion: Language Agents with Verbal Reinforcement Learning". Deviation: if no try is
    accepted, the one that was thought best comes out, the first of equals.

    Args:
        inner: makes each try; `direct` by default.
        tries: most tries.
        by: who says whether a try went wrong: the critic, or the environment's checker where that may be used.
        accept: confidence from which a try is accepted, in [0, 1].
    """
    inner, judge = inner or direct(), _JUDGES[by]

    async def one(work: Work) -> Draft:
        history: list[Draft] = []
        learned: list[str] = []
        while True:
            # A later try is sampled: with advice that the model ignores, it would be the first one again. What it notes
            # is its own: until it was judged, an earlier try is the best there is.
            now = work
            if history:
                now = replace(work.branch(len(history)), advice=(*work.advice, *learned), best=[])
            draft, feedback = await judge(work, _begun(work, await inner(now)))
            history.append(draft)
            best = max(history, key=lambda tried: tried.score or 0.0)
            work.note(best)
            if (draft.score or 0.0) > accept or len(history) == tries:
                return _settled(best, "reflexion", history)
            lesson = await _reflection(work, draft, feedback)
            if lesson and lesson not in learned:
                learned.append(lesson)
                work.lessons.append(lesson)

    return strategy_of(one)


def critic(inner: Strategy | None = None, *, rounds: Count = 1) -> Strategy:
    """Have the model check its answer by calling tools, and mend it by what they say.

    Source: arXiv 2305.11738, "CRITIC: Large Language Models Can Self-Correct with Tool-Interactive Critiquing".
    Deviation: without one call that worked there is no evidence, and the draft stays.

    Args:
        inner: makes the first draft; `direct` by default.
        rounds: most checks; one that confirms the draft is the last.
    """
    inner = inner or direct()

    async def one(work: Work) -> Draft:
        if not work.toolbox.allowed:
            raise UsageError("critic checks with tools, and there are none that may be called. Name some: tools.use.")
        best = work.note((await inner(work))[0])
        history = [best]
        for turn in range(rounds):
            loop = ToolLoop(work.meter, work.toolbox, work.bounds)
            asked = work.prompt(_said(best), Message(role="user", content=CHECK))
            sampling = Sampling(
                max_tokens=work.max_tokens, temperature=work.temperature, seed=derive(work.seed, "critic", turn)
            )
            talk = await loop.answer(asked, sampling)
            if talk.answer is None or not any(record.result.ok for record in talk.calls):
                break
            answer = work.form.parse(work.task, talk.answer)
            found = Draft(text=talk.answer, answer=answer, by="critic")
            history.append(found)
            same, best = answer == best.answer, work.note(found)
            if same:
                break
        return _settled(best, "critic", history)

    return strategy_of(one)


def _revising(inner: Strategy | None, by: str, judge: Judge, rounds: int, accept: float, margin: float) -> Strategy:
    """Return the strategy that revises a draft until the judge accepts it, and keeps what the judge prefers."""
    drafts = inner or direct()

    async def one(work: Work) -> Draft:
        best, feedback = await judge(work, _begun(work, await drafts(work)))
        history = [best]
        for turn in range(rounds):
            if feedback is None or (best.score or 0.0) >= accept:
                break
            # A later one is sampled: after a refusal it would else be the same again.
            desk = work.branch(turn) if turn else work
            found, criticism = await judge(desk, await _revision(desk, best, feedback))
            history.append(found)
            worth, before = found.score or 0.0, best.score or 0.0
            if worth > before and worth >= before + margin:
                best, feedback = work.note(found), criticism
        return _settled(best, by, history)

    return strategy_of(one)


def _begun(work: Work, drafts: Sequence[Draft]) -> Draft:
    """Return a strategy's one draft; before anything was judged it is the best there is."""
    return drafts[0] if work.best else work.note(drafts[0])


async def _judged(work: Work, draft: Draft) -> tuple[Draft, str]:
    """Have the critic score a draft."""
    said = await work.judge(draft)
    return draft.model_copy(update={"score": said.confidence}), f"{said.fault} {said.advice}".strip()


async def _checked(work: Work, draft: Draft) -> tuple[Draft, str]:
    """Have the environment's checker score a draft; it says nothing else."""
    return draft.model_copy(update={"score": float(bool(await work.check(draft)))}), ""


async def _tried(work: Work, draft: Draft) -> tuple[Draft, str | None]:
    """Run a draft on the task's examples; without any there is nothing to mend."""
    found = await work.try_out(draft)
    return (draft, None) if found is None else (draft.model_copy(update={"score": found.score}), found.detail)


async def _revision(work: Work, draft: Draft, feedback: str) -> Draft:
    ask = f"That may be wrong. {feedback} Answer again: {work.form.system_prompt(work.task)}"
    (completion,) = await work.ask(work.prompt(_said(draft), Message(role="user", content=ask)))
    return work.draft(completion, "revision")


async def _reflection(work: Work, draft: Draft, feedback: str | None) -> str:
    fault = f" {feedback}" if feedback else ""
    ask = Message(role="user", content=f"That was wrong.{fault} {REFLECT}")
    (completion,) = await work.ask(work.prompt(_said(draft), ask), max_tokens=64, stop=("\n",))
    return " ".join(completion.text.split())


_JUDGES: dict[str, Judge] = {"critic": _judged, "checker": _checked}


def _said(draft: Draft) -> Message:
    return Message(role="assistant", content=draft.text or "I do not know.")


def _settled(best: Draft, by: str, history: Sequence[Draft]) -> Draft:
    return Draft(text=best.text, answer=best.answer, by=by, score=best.score, of=tuple(history), revised=True)
