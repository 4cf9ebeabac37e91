"""Reasoning by feedback: a draft is criticised, and a better one made of it.

A revision takes a draft's place only where the evidence is for it, because small models revise right answers into wrong
ones at least as often as the other way. The drafts of a history stay in the answer, so that flips can be counted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass
class Course:
    """How far a history of drafts has come."""

    best: Draft
    """The draft that counts."""
    feedback: str | None
    """What is wrong with it."""
    history: list[Draft]
    """All drafts, in their order."""
    last: str | None
    """What is wrong with the last one."""
    learned: list[str] = field(default_factory=list)
    """Lessons drawn on the way."""


Again = Callable[[Work, Course], Awaitable[Draft]]
"""Makes another draft."""

REFLECT = "Say in one sentence what to do differently next time. Do not give the answer."
CHECK = "Check this answer with the tools. Then reply with the right answer."


def self_refine(
    inner: Strategy | None = None, *, rounds: Count = 2, accept: Share = 0.75, margin: Share = 1.0
) -> Strategy:
    """Draft, feedback, revision, until the critic accepts or the rounds are over.

    Source: arXiv 2303.17651, "Self-Refine: Iterative Refinement with Self-Feedback". Deviations: the feedback is the
    critic's; a revision is kept only if the critic prefers it by `margin`.

    Args:
        inner: makes the first draft; `direct` by default.
        rounds: most revisions.
        accept: confidence of the critic from which a draft is left as it is, in [0, 1].
        margin: by how much the critic must prefer a revision, in [0, 1]. By default it has to be of one mind about
            both, so that one that tosses a coin overrules a draft in one of a hundred answers.
    """
    return _improving(inner, "self_refine", _judged, _revision, rounds, accept, margin)


def self_debug(inner: Strategy | None = None, *, rounds: Count = 2) -> Strategy:
    """Run the answer on the examples that the task shows, and have what failed mended. For code.

    Source: arXiv 2304.05128, "Teaching Large Language Models to Self-Debug". Deviation: a revision is kept only if more
    of the examples come out. Where a task shows none the first draft is the answer.

    Args:
        inner: makes the first draft; `direct` by default.
        rounds: most revisions.
    """
    return _improving(inner, "self_debug", _tried, _revision, rounds, 1.0, 0.0)


def reflexion(
    inner: Strategy | None = None,
    *,
    tries: Count = 3,
    by: Literal["critic", "checker"] = "critic",
    accept: Share = 0.75,
    margin: Share = 1.0,
) -> Strategy:
    """Try, reflect on what went wrong, try again with that as advice.

    Source: arXiv 2303.11366, "Reflexion: Language Agents with Verbal Reinforcement Learning". Deviation: a later try is
    kept only if it is preferred by `margin`, as in `self_refine`.

    Args:
        inner: makes each try; `direct` by default.
        tries: most tries.
        by: who says whether a try went wrong: the critic, or the environment's checker where that may be used.
        accept: confidence from which a try is left as it is, in [0, 1].
        margin: by how much a later try must be preferred, in [0, 1].
    """
    inner = inner or direct()

    async def again(work: Work, course: Course) -> Draft:
        lesson = await _reflection(work, course.history[-1], course.last)
        if lesson and lesson not in course.learned:
            course.learned.append(lesson)
        # A later try is sampled: with advice that the model ignores, it would be the first one again.
        desk = work.aside().branch(len(course.history))
        return (await inner(replace(desk, advice=(*work.advice, *course.learned))))[0]

    return _improving(inner, "reflexion", _JUDGES[by], again, tries - 1, accept, margin)


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
            talk = await work.within(loop.answer(asked, sampling))
            answer = None if talk.answer is None else work.form.parse(work.task, talk.answer)
            if answer is None or not any(record.result.ok for record in talk.calls):
                break
            history.append(Draft(text=talk.answer or answer, answer=answer, by="critic"))
            same, best = answer == best.answer, history[-1]
            work.note(_settled(best, "critic", history))
            if same:
                break
        return work.note(_settled(best, "critic", history))

    return strategy_of(one)


def _improving(
    inner: Strategy | None, by: str, judge: Judge, again: Again, rounds: int, accept: float, margin: float
) -> Strategy:
    """Return the strategy that makes another draft until the judge accepts one, and keeps what the judge prefers."""
    drafts = inner or direct()

    async def one(work: Work) -> Draft:
        if judge is _checked:
            work.require_checker()
        first, said = await judge(work, _begun(work, await drafts(work)))
        course = Course(first, said, [first], said)
        for _ in range(rounds):
            work.note(_settled(course.best, by, course.history, course.learned))
            before = course.best.score
            # Where nothing can be said of a draft, nothing speaks against it.
            if course.feedback is None or before is None or before >= accept:
                break
            found, course.last = await judge(work, await again(work, course))
            course.history.append(found)
            if found.score is not None and before < found.score >= before + margin:
                course.best, course.feedback = found, course.last
        return work.note(_settled(course.best, by, course.history, course.learned))

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


async def _revision(work: Work, course: Course) -> Draft:
    ask = f"That may be wrong. {course.feedback} Answer again: {work.form.system_prompt(work.task)}"
    # A later one is sampled: after a refusal it would else be the same again.
    desk = work if len(course.history) == 1 else work.branch(len(course.history))
    (completion,) = await desk.ask(work.prompt(_said(course.best), Message(role="user", content=ask)))
    return work.draft(completion, "revision")


async def _reflection(work: Work, draft: Draft, feedback: str | None) -> str:
    fault = f" {feedback}" if feedback else ""
    ask = Message(role="user", content=f"That was wrong.{fault} {REFLECT}")
    (completion,) = await work.ask(work.prompt(_said(draft), ask), max_tokens=64, stop=("\n",))
    return " ".join(completion.text.split())


_JUDGES: dict[str, Judge] = {"critic": _judged, "checker": _checked}


def _said(draft: Draft) -> Message:
    return Message(role="assistant", content=draft.text or "I do not know.")


def _settled(best: Draft, by: str, history: Sequence[Draft], learned: Sequence[str] = ()) -> Draft:
    advice = tuple(dict.fromkeys([*best.learned, *learned]))
    return best.model_copy(update={"by": by, "of": tuple(history), "first": history[0].begun, "learned": advice})
