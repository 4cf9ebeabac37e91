"""The curator decides what is worth learning: the gates of `autotelic.selection` first, its own word where it pays.

The gates are exact and always hold. The model's review is an opinion on top of them; it is recorded for a sample of
items, right and wrong ones, and it may drop an item only while its reviews tell right from wrong better than chance on
that sample.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import ValidationError

from autotelic.core.words import Completion, Frozen, Message
from autotelic.serving import Gateway, Sampling

__all__ = ["Curator", "Review"]

SYSTEM = "You choose examples to learn from. Keep an example only if its answer is right and clear."

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"keep": {"type": "boolean"}, "why": {"enum": ["clear", "wrong", "unclear", "trivial"]}},
    "required": ["keep", "why"],
    "additionalProperties": False,
}

LESSON = "You learn from experience. Say in one sentence what to do, so that the next question of this kind goes right."

LESSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"advice": {"type": "string", "minLength": 8, "maxLength": 200}},
    "required": ["advice"],
    "additionalProperties": False,
}


class _Opinion(Frozen):
    keep: bool
    why: Literal["clear", "wrong", "unclear", "trivial"]


class Review(Frozen):
    """The curator's opinion of one item."""

    item_id: str
    """Trajectory reviewed."""
    keep: float | None
    """Share of the sampled opinions that would keep it, in [0, 1]; `None` if there is none."""
    why: str = ""
    """Reason of the majority's first opinion."""


class Curator:
    """Reviews candidate examples through the gateway.

    Args:
        gateway: where model calls go.
        samples: opinions sampled for one review.
        system: an evolved system prompt of reviews; by default its own.
    """

    def __init__(self, gateway: Gateway, *, samples: int = 4, system: str | None = None) -> None:
        self._gateway = gateway
        self._samples = samples
        self._system = system or SYSTEM

    def messages(self, question: str, answer: str) -> tuple[Message, ...]:
        """Return the prompt for one review."""
        return (
            Message(role="system", content=self._system),
            Message(role="user", content=f"Example:\n{question}\n\nAnswer:\n{answer}\n\nKeep this example?"),
        )

    async def review(self, item_id: str, question: str, answer: str, *, seed: int) -> Review:
        """Return the model's opinion of one example."""
        sampling = Sampling(n=self._samples, seed=seed, max_tokens=24, temperature=1.0, schema=SCHEMA)
        said = await self._gateway.attempt(list(self.messages(question, answer)), sampling)
        opinions = [o for c in said if (o := _parse(c)) is not None]
        if not opinions:
            return Review(item_id=item_id, keep=None)
        keep = sum(o.keep for o in opinions) / len(opinions)
        return Review(
            item_id=item_id, keep=keep, why=next(o.why for o in opinions if o.keep == (keep > 0.5) or keep == 0.5)
        )

    async def lesson(self, question: str, right: str, wrong: str, *, seed: int) -> str | None:
        """Return advice drawn from a right and a wrong answer to one question, `None` if none was given in form.

        Source: arXiv 2308.10144, "ExpeL: LLM Agents Are Experiential Learners", insights from success and failure.
        """
        shown = f"Question:\n{question}\n\nRight answer:\n{right}\n\nWrong answer:\n{wrong}\n\nThe lesson?"
        messages = [Message(role="system", content=LESSON), Message(role="user", content=shown)]
        sampling = Sampling(n=1, seed=seed, max_tokens=96, temperature=0.7, schema=LESSON_SCHEMA)
        (completion,) = await self._gateway.attempt(messages, sampling)
        try:
            return " ".join(str(json.loads(completion.text)["advice"]).split()) or None
        except (ValueError, KeyError, TypeError):  # cut off by the token limit
            return None


def _parse(completion: Completion) -> _Opinion | None:
    try:
        return _Opinion.model_validate_json(completion.text)
    except ValidationError:
        return None
