"""The proposer writes tasks within an environment's grammar; the environment decides what they are worth.

Its output is held to the environment's JSON schema by guided decoding, so even a 135M model writes something that can
be judged. It is trained like the solver: proposals that were valid, new and inside the learnable band become examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from autotelic.agents.solver import demonstration_turns
from autotelic.core.words import Completion, Message
from autotelic.environments import Environment
from autotelic.serving import Gateway, Sampling

__all__ = ["Draft", "Proposer"]


@dataclass(frozen=True)
class Draft:
    """One proposal as written, with the bare prompt that training sees."""

    completion: Completion
    messages: tuple[Message, ...]


class Proposer:
    """Writes proposals for one environment.

    Args:
        gateway: where model calls go.
        environment: gives the grammar.
        max_tokens: bound on one proposal, tokens.
        temperature: sampling temperature.
        system: an evolved system prompt; by default the environment's.
    """

    def __init__(
        self,
        gateway: Gateway,
        environment: Environment,
        *,
        max_tokens: int,
        temperature: float,
        system: str | None = None,
    ) -> None:
        self._gateway = gateway
        self._environment = environment
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._system = system

    def messages(self, examples: Sequence[str] = ()) -> tuple[Message, ...]:
        """Return the prompt: the grammar, earlier proposals as turns, the request."""
        *system, ask = self.bare()
        if self._system is not None:
            system = [Message(role="system", content=self._system)]
        return (*system, *demonstration_turns([(ask.content, text) for text in examples]), ask)

    def bare(self) -> tuple[Message, ...]:
        """Return the prompt that training sees: the environment's own, without examples."""
        return tuple(self._environment.proposal_prompt(Random(0), demonstrations=0))

    async def draft(self, examples: Sequence[str], *, n: int, seed: int) -> list[Draft]:
        """Write `n` proposals after the same examples."""
        sampling = Sampling(
            n=n,
            seed=seed,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            schema=self._environment.proposal_schema(),
        )
        completions = await self._gateway.attempt(list(self.messages(examples)), sampling)
        return [Draft(completion, self.bare()) for completion in completions]
