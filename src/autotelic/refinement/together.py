"""Reasoning together: several speakers see one another's answers. More than one model may take part (`Work.others`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from autotelic.core.texts import comparable
from autotelic.core.waiting import side_by_side
from autotelic.core.words import Message
from autotelic.refinement.decoding import direct
from autotelic.refinement.voting import vote
from autotelic.refinement.work import Count, Draft, Strategy, Width, Work, strategy_of

__all__ = ["conversation", "debate", "mixture"]

Topology = Literal["full", "ring", "star"]
DEBATE = "Others answered:\n{others}\nConsider them and answer again. {form}"
INSTRUCT = (
    "You tell an assistant how to solve a task.\n\nTask: {task}\n\nSo far:\n{talk}\n\n"
    "Say in one sentence what the assistant should do next, or DONE if nothing is left to do. Do not solve it."
)
_ROLES = {"user": "You", "assistant": "Assistant"}
MERGE = "Several people answered this task:\n{others}\nSome of it may be wrong. Give the best answer. {form}"


def debate(
    inner: Strategy | None = None,
    *,
    speakers: Annotated[Width, Field(ge=2)] = 3,
    rounds: Count = 2,
    topology: Topology = "full",
) -> Strategy:
    """Speakers answer, read others' answers and answer again, until nobody changes theirs; then they vote.

    Source: arXiv 2305.14325, "Improving Factuality and Reasoning in Language Models through Multiagent Debate";
    topologies after arXiv 2406.11776.

    Args:
        inner: makes each speaker's first answer; `direct` by default.
        speakers: how many, two or more; the models that take part speak in turn.
        rounds: most rounds after the first answers.
        topology: whom a speaker hears: `full` everybody, `ring` the one before, `star` the first speaker everybody and
            everybody the first speaker.
    """
    inner = inner or direct()

    async def one(work: Work) -> Draft:
        desks = [work.speaker(i).branch(i) for i in range(speakers)]
        said = await _first_answers(inner, desks)
        opening = work.note(vote(said).winner)
        history = [opening, *said]
        for turn in range(rounds):
            heard = [[said[other] for other in _neighbours(i, speakers, topology)] for i in range(speakers)]
            new = await side_by_side(_reply(desk.branch(turn), said[i], heard[i]) for i, desk in enumerate(desks))
            settled = [_position(draft) for draft in new] == [_position(draft) for draft in said]
            said = new
            history += said
            work.note(_argued(said, history))
            if settled:
                break
        return work.note(_argued(said, history))

    return strategy_of(one)


def _argued(said: Sequence[Draft], history: Sequence[Draft]) -> Draft:
    """Return what a debate has come to; its history begins with what the first answers came to."""
    winner, share, _ = vote(said)
    return winner.model_copy(update={"by": "debate", "score": share, "of": tuple(history), "first": history[0].begun})


def mixture(inner: Strategy | None = None, *, n: Width = 3, layers: Count = 1) -> Strategy:
    """Mixture of agents: every speaker of a layer sees all answers of the layer before; one speaker merges the last.

    Where nothing can be read from the merged answer, what the first layer votes for stands.

    Source: arXiv 2406.04692, "Mixture-of-Agents Enhances Large Language Model Capabilities".

    Args:
        inner: makes the answers of the first layer; `direct` by default.
        n: speakers of a layer; the models that take part speak in turn.
        layers: layers before the one that merges.
    """
    inner = inner or direct()

    async def one(work: Work) -> Draft:
        desks = [work.speaker(i).branch(i) for i in range(n)]
        said = await _first_answers(inner, desks)
        opening = work.note(vote(said).winner)
        history = [opening, *said]
        for _ in range(1, layers):
            said = await side_by_side([_merged(desk, said) for desk in desks])
            history += said
        best = await _merged(work, said)
        merged = opening if best.answer is None else best
        return work.note(merged.model_copy(update={"by": "mixture", "of": (*history, best), "first": opening.begun}))

    return strategy_of(one)


def conversation(*, turns: Count = 3, instruction_tokens: Count = 48, reply_tokens: Count = 96) -> Strategy:
    """Two roles talk: an instructor says what to do next, an assistant does it, and at the end gives the answer.

    Source: arXiv 2303.17760, "CAMEL: Communicative Agents for 'Mind' Exploration of Large Language Model Society".
    Deviation: the roles are always these two. Two models that take part share them.

    Args:
        turns: most instructions.
        instruction_tokens: bound on each, tokens.
        reply_tokens: bound on what the assistant says to one, tokens.
    """

    async def one(work: Work) -> Draft:
        instructor, assistant = work.speaker(0), work.speaker(1)
        talk: list[Message] = []
        for _ in range(turns):
            said = "\n".join(f"{_ROLES[message.role]}: {message.content}" for message in talk)
            ask = Message(role="user", content=INSTRUCT.format(task=work.task.question, talk=said or "(nothing yet)"))
            (order,) = await instructor.ask([ask], max_tokens=instruction_tokens, stop=("\n",))
            wanted = " ".join(order.text.split())
            if not wanted or wanted.strip(".!").upper() == "DONE":
                break
            talk.append(Message(role="user", content=wanted))
            (reply,) = await assistant.ask(work.prompt(*talk), max_tokens=reply_tokens)
            work.note(work.draft(reply, "conversation"))
            talk.append(Message(role="assistant", content=reply.text))
        last = Message(role="user", content=f"Now give the answer. {work.form.system_prompt(work.task)}")
        (answer,) = await assistant.ask(work.prompt(*talk, last) if talk else work.prompt())
        return work.note(work.draft(answer, "conversation"))

    return strategy_of(one)


def _neighbours(index: int, speakers: int, topology: Topology) -> list[int]:
    if topology == "ring":
        return [(index - 1) % speakers]
    if topology == "star" and index:
        return [0]
    return [other for other in range(speakers) if other != index]


async def _first_answers(inner: Strategy, desks: Sequence[Work]) -> list[Draft]:
    return [drafts[0] for drafts in await side_by_side(inner(desk) for desk in desks)]


async def _reply(work: Work, own: Draft, others: Sequence[Draft]) -> Draft:
    ask = DEBATE.format(others=_listed(others), form=work.form.system_prompt(work.task))
    before = Message(role="assistant", content=own.text or "I do not know.")
    (completion,) = await work.ask(work.prompt(before, Message(role="user", content=ask)))
    return work.draft(completion, "debate")


async def _merged(work: Work, others: Sequence[Draft]) -> Draft:
    ask = MERGE.format(others=_listed(others), form=work.form.system_prompt(work.task))
    (completion,) = await work.ask(work.prompt(Message(role="user", content=ask)))
    return work.draft(completion, "mixture")


def _listed(drafts: Sequence[Draft]) -> str:
    return "\n".join(f"- {draft.answer}" for draft in drafts if draft.answer is not None) or "- nothing"


def _position(draft: Draft) -> str | None:
    return None if draft.answer is None else comparable(draft.answer)
