"""How a request is sampled, and how that is said to an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotelic.core.errors import UsageError
from autotelic.core.words import Message

__all__ = ["Sampling", "chat_request", "guide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one request is sampled. At most one of `schema`, `choices`, `regex` and `grammar` guides it."""

    n: int = 1
    """Answers to the same prompt."""
    max_tokens: int = 256
    """Bound on each answer, tokens."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus of the distribution that is sampled from."""
    seed: int | None = None
    """Seed of this request; its n answers differ from one another."""
    schema: dict[str, Any] | None = None
    """JSON schema that every answer obeys, without white space between its parts."""
    choices: tuple[str, ...] | None = None
    """The answer is one of these."""
    regex: str | None = None
    """The answer matches this."""
    grammar: str | None = None
    """The answer is a sentence of this grammar, in EBNF as xgrammar reads it; it begins with `root`."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not part of it."""
    logprobs: bool = False
    """Whether to return the log-probability of each generated token."""
    alternatives: int = 0
    """How many of the likeliest tokens to return at each place, with their log-probabilities; at most 20."""
    unfinished: bool = False
    """Whether the last message is the beginning of the answer: what is generated goes on from there."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the model is told of, in OpenAI's form. Our own server writes them into the prompt, by the chat
    template; calls are then part of the text, and a `schema` is what holds them to a form."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"sampling with n={self.n}, max_tokens={self.max_tokens}, temperature={self.temperature}, "
                f"top_p={self.top_p} is impossible. "
                "Set n and max_tokens to 1 or more, temperature to 0 or more, and top_p between 0 and 1."
            )
        guides = [name for name in ("schema", "choices", "regex", "grammar") if getattr(self, name) is not None]
        if len(guides) > 1:
            raise UsageError(f"sampling is guided by {' and '.join(guides)} at once. Keep one of them.")


def chat_request(messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    """Return the part of a chat request that every OpenAI-compatible server understands."""
    body: dict[str, Any] = {
        "messages": [message.openai() for message in messages],
        "n": sampling.n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs:
        body["logprobs"] = True
    if sampling.alternatives:
        body |= {"logprobs": True, "top_logprobs": sampling.alternatives}
    if sampling.tools:
        body["tools"] = list(sampling.tools)
    return body


def guide(sampling: Sampling) -> dict[str, Any] | None:
    """Return what holds an answer to a form, as vLLM has it."""
    if sampling.schema is not None:
        return {"json": sampling.schema}
    if sampling.choices is not None:
        return {"choice": list(sampling.choices)}
    if sampling.regex is not None:
        return {"regex": sampling.regex}
    if sampling.grammar is not None:
        return {"grammar": sampling.grammar}
    return None
