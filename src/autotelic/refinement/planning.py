"""Reasoning by a plan: first what has to be done, then doing it."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from autotelic.core.words import Message
from autotelic.refinement.work import Count, Draft, Strategy, Work, strategy_of

__all__ = ["least_to_most", "plan_and_solve"]

PLAN = "Understand the task and write a short plan for it. Do not solve it yet."
FOLLOW = "Follow the plan and give the answer."
SPLIT = "Split the task into at most {most} simpler questions, the easiest first."


def plan_and_solve(*, plan_tokens: Count = 96) -> Strategy:
    """Write a plan, then follow it.

    Source: arXiv 2305.04091, "Plan-and-Solve Prompting". Deviation: plan and answer are two turns, so that the answer
    keeps its form.

    Args:
        plan_tokens: bound on the plan, tokens.
    """

    async def one(work: Work) -> Draft:
        ask = Message(role="user", content=PLAN)
        (plan,) = await work.ask(work.prompt(ask), max_tokens=plan_tokens)
        said = Message(role="assistant", content=plan.text)
        follow = Message(role="user", content=f"{FOLLOW} {work.form.system_prompt(work.task)}")
        (answer,) = await work.ask(work.prompt(ask, said, follow))
        return work.note(work.draft(answer, "plan_and_solve"))

    return strategy_of(one)


def least_to_most(*, most: Annotated[Count, Field(le=16)] = 3, step_tokens: Count = 64) -> Strategy:
    """Split the task into simpler questions, answer them in turn, each with those before it, then the task.

    Source: arXiv 2205.10625, "Least-to-Most Prompting Enables Complex Reasoning in Large Language Models".

    Args:
        most: simpler questions at most.
        step_tokens: bound on the answer to each, tokens.
    """
    schema = {
        "type": "object",
        "properties": {"questions": {"type": "array", "items": {"type": "string", "maxLength": 120}, "maxItems": most}},
        "required": ["questions"],
        "additionalProperties": False,
    }

    async def one(work: Work) -> Draft:
        split = Message(role="user", content=SPLIT.format(most=most))
        (said,) = await work.ask(work.prompt(split), schema=schema, max_tokens=64 * most)
        talk: list[Message] = []
        for question in _questions(said.text)[:most]:
            talk.append(Message(role="user", content=question))
            (step,) = await work.ask(work.prompt(*talk), max_tokens=step_tokens)
            talk.append(Message(role="assistant", content=step.text))
        last = f"{work.task.question}\n\n{work.form.system_prompt(work.task)}"
        (answer,) = await work.ask(work.prompt(*talk, Message(role="user", content=last)))
        return work.note(work.draft(answer, "least_to_most"))

    return strategy_of(one)


def _questions(text: str) -> list[str]:
    """Read the questions; a list that was cut off by the token limit is no list, and the task is asked as it is."""
    try:
        found = json.loads(text)["questions"]
        return [question for question in found if isinstance(question, str) and question.strip()]
    except (ValueError, KeyError, TypeError):
        return []
