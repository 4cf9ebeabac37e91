"""What an answer costs: every call of a model is counted here, and refused when the budget is spent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import nullcontext

from pydantic import Field

from autotelic.core.errors import DeliveryError, ServingError
from autotelic.core.words import Completion, Frozen, Message
from autotelic.serving import TOO_LONG, Gateway, OnText, Refused, Sampling, TooLong

__all__ = ["Budget", "Meter", "Price", "Spent", "Step", "Tally"]


class Budget(Frozen):
    """How much one answer may cost. The call that crosses a bound is the last one."""

    calls: int | None = Field(default=None, ge=1)
    """Requests to the model."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens of prompts and completions."""
    seconds: float | None = Field(default=None, gt=0)
    """Seconds on the clock; a call still running then is given up."""

    def __str__(self) -> str:
        """The bounds in words, empty without any."""
        bounds = {"calls": self.calls, "tokens": self.tokens, "seconds": self.seconds}
        return ", ".join(f"{most:g} {name}" for name, most in bounds.items() if most is not None)


class Price(Frozen):
    """What an answer cost."""

    calls: int = 0
    """Requests to the model, failed ones too."""
    prompt_tokens: int = 0
    """Tokens of the prompts, each request once."""
    cached_tokens: int = 0
    """Of these, what the server had computed before."""
    completion_tokens: int = 0
    """Generated tokens, all samples."""
    seconds: float = 0.0
    """From the question to the answer."""

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Price) -> Price:
        """Return the price of both, one after the other."""
        return Price(**{name: getattr(self, name) + getattr(other, name) for name in Price.model_fields})

    def __str__(self) -> str:
        """The price in words."""
        return f"{self.calls} call{'s' * (self.calls != 1)}, {self.tokens:,} tokens, {self.seconds:.1f} s"


class Step(Frozen):
    """One request to the model and what it said."""

    messages: tuple[Message, ...]
    """What was asked."""
    completions: tuple[Completion, ...]
    """What it said; empty where the call failed."""
    failure: str = ""
    """Why there is no completion."""


class Spent(Exception):
    """The budget is spent; the message names the bound."""


class Tally:
    """What one answer has cost so far, and what it may cost."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.steps: list[Step] = []
        self.stopped = ""
        self.lost = False
        self.calls = 0
        self._began = time.monotonic()
        # What a call adds to the tokens is known when it has ended: with a bound on them they go one at a time.
        self.turn = asyncio.Lock() if budget.tokens is not None else nullcontext()

    @property
    def price(self) -> Price:
        """What was spent so far."""
        found = [step.completions for step in self.steps if step.completions]
        return Price(
            calls=self.calls,
            prompt_tokens=sum(completions[0].prompt_tokens for completions in found),
            cached_tokens=sum(completions[0].cached_tokens for completions in found),
            completion_tokens=sum(c.completion_tokens for completions in found for c in completions),
            seconds=time.monotonic() - self._began,
        )

    @property
    def left(self) -> float | None:
        """Seconds that are left, `None` without a bound."""
        if self.budget.seconds is None:
            return None
        return max(0.0, self.budget.seconds - (time.monotonic() - self._began))

    def begin(self) -> None:
        """Count a call that is about to be made.

        Raises:
            Spent: a bound is reached.
        """
        bound, price = self.budget, self.price
        uses = (("calls", bound.calls, price.calls), ("tokens", bound.tokens, price.tokens))
        for name, most, used in (*uses, ("seconds", bound.seconds, price.seconds)):
            if most is not None and used >= most:
                self.cut(spent := Spent(name))
                raise spent
        self.calls += 1

    def end(self, messages: Sequence[Message], completions: Sequence[Completion], failure: str = "") -> None:
        """Note what came of it."""
        self.steps.append(Step(messages=tuple(messages), completions=tuple(completions), failure=failure))

    def cut(self, error: BaseException) -> None:
        """Note what cut the answer short; the first that did is kept."""
        said = str(error) if isinstance(error, Spent) else _failure(error)
        self.stopped = self.stopped or (TOO_LONG if isinstance(error, TooLong) else said)


class Meter(Gateway):
    """A gateway that counts what goes through it and refuses calls beyond a budget. Retries are the gateway's own."""

    def __init__(self, gateway: Gateway, budget: Budget | None = None, *, tally: Tally | None = None) -> None:
        self.backend, self.policy = gateway.backend, gateway.policy
        self.tally = tally or Tally(budget or Budget())
        self._gateway = gateway

    def through(self, gateway: Gateway) -> Meter:
        """Return a meter for another model, which counts into the same tally."""
        return Meter(gateway, tally=self.tally)

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling | None = None, on_text: OnText | None = None
    ) -> list[Completion]:
        """See `Gateway.complete`; gives fewer where the budget ended, or a call failed, between two requests for them.

        Raises:
            Spent: the budget was spent before there was any.
        """
        made: list[Completion] = []
        try:
            async for found in self.requests(messages, sampling or Sampling(), on_text):
                made += found
        except (Spent, ServingError) as error:
            if not made or isinstance(error, DeliveryError):
                raise
            self.tally.cut(error)
        return made

    async def request(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None = None
    ) -> list[Completion]:
        """See `Gateway.request`.

        Raises:
            Spent: the budget is spent, or its time ended while the model was speaking.
        """
        async with self.tally.turn:
            self.tally.begin()
            try:
                async with asyncio.timeout(self.tally.left) as clock:
                    found = await self._gateway.request(messages, sampling, on_text)
            except TimeoutError:
                if not clock.expired():
                    raise
                self.tally.end(messages, (), "seconds")
                self.tally.cut(spent := Spent("seconds"))
                raise spent from None
            except ServingError as error:
                self.tally.end(messages, (), _failure(error))
                # Another refusal may be answered by asking otherwise, as the tool loop does.
                if isinstance(error, TooLong) or not isinstance(error, Refused):
                    self.tally.cut(error)
                    self.tally.lost = self.tally.lost or not isinstance(error, TooLong)
                raise
            self.tally.end(messages, found)
            return found


def _failure(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
