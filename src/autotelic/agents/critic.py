"""The critic judges a finished trajectory without seeing the key.

Its confidence is the share of several sampled judgements that say "right", because a small model's own figure for its
confidence means nothing. Whether the critic is worth listening to is measured against the checker each round
(`autotelic.evaluation.gap`), never assumed.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError

from autotelic.agents.solver import NO_ANSWER
from autotelic.core.words import Completion, Critique, Frozen, Message
from autotelic.serving import Gateway, Sampling

__all__ = ["Critic"]

SYSTEM = "You check answers. Say whether the answer is right or wrong, what is at fault, and what to do."


class _Judgement(Frozen):
    verdict: Literal["right", "wrong"]
    fault: str = Field(max_length=60)
    advice: str = Field(max_length=60)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["right", "wrong"]},
        "fault": {"type": "string", "maxLength": 60},
        "advice": {"type": "string", "maxLength": 60},
    },
    "required": ["verdict", "fault", "advice"],
    "additionalProperties": False,
}


class Critic:
    """Judges answers through the gateway.

    Args:
        gateway: where model calls go.
        samples: judgements sampled for one critique.
        max_tokens: bound on one judgement, tokens.
        system: an evolved system prompt; by default its own.
    """

    def __init__(self, gateway: Gateway, *, samples: int = 4, max_tokens: int = 96, system: str | None = None) -> None:
        self._gateway = gateway
        self._system = system or SYSTEM
        self._samples = samples
        self._max_tokens = max_tokens

    def messages(self, question: str, answer: str) -> tuple[Message, ...]:
        """Return the prompt for one judgement."""
        return (
            Message(role="system", content=self._system),
            Message(role="user", content=f"Task:\n{question}\n\nAnswer:\n{answer}\n\nIs the answer right or wrong?"),
        )

    async def judge(self, trajectory_id: str, question: str, answer: str, *, seed: int) -> Critique:
        """Return the critique of one answer; a critique without a verdict says why."""
        sampling = Sampling(n=self._samples, seed=seed, max_tokens=self._max_tokens, temperature=1.0, schema=SCHEMA)
        completions = await self._gateway.attempt(list(self.messages(question, answer)), sampling)
        judgements = [j for c in completions if (j := _parse(c)) is not None]
        if not judgements:
            ends = {NO_ANSWER.get(c.finish_reason, "malformed") for c in completions}
            reason = ends.pop() if len(ends) == 1 else "malformed"
            return Critique(trajectory_id=trajectory_id, verdict=None, confidence=None, reason=reason)
        confidence = sum(j.verdict == "right" for j in judgements) / len(judgements)
        verdict: Literal["right", "wrong"] = "right" if confidence > 0.5 else "wrong"
        said = next((j for j in judgements if j.verdict == verdict), judgements[0])
        return Critique(
            trajectory_id=trajectory_id, verdict=verdict, confidence=confidence, fault=said.fault, advice=said.advice
        )


def _parse(completion: Completion) -> _Judgement | None:
    try:
        return _Judgement.model_validate_json(completion.text)
    except ValidationError:
        return None
