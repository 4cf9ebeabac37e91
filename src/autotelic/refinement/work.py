"""What a strategy works with, and what comes of it: an answer, how it came to be, and its price.

A strategy is an async function from `Work` and a number to so many drafts, independent of one another. So wrapping is
calling: `self_consistency(inner)` asks `inner` for n drafts and makes one of them. All model calls go through the
work's meter, which counts them and refuses the next one when the budget is spent. What fails or is refused inside ends
no answer: the best draft there is comes out, marked with what stopped it.

Whether a draft is right no strategy can see, but for `Work.check`, where the caller says that the checker may be used.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field

from autotelic.agents import Bounds, Critic, advised
from autotelic.core.errors import DeliveryError, ServingError, UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Completion, Critique, Frozen, Message, Task, content_id
from autotelic.environments import Checked
from autotelic.serving import Gateway, OnText, Refused, Sampling
from autotelic.tools import Toolbox

__all__ = [
    "Answer",
    "Budget",
    "Count",
    "Draft",
    "Form",
    "Meter",
    "Price",
    "Share",
    "Spent",
    "Step",
    "Strategy",
    "Tally",
    "Work",
    "answer_task",
    "several",
]

Count = Annotated[int, Field(ge=1)]
"""A parameter that counts something."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A parameter in [0, 1]."""


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
    completion_tokens: int = 0
    """Generated tokens, all samples."""
    seconds: float = 0.0
    """From the question to the answer."""

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens


class Step(Frozen):
    """One request to the model and what it said."""

    messages: tuple[Message, ...]
    """What was asked."""
    completions: tuple[Completion, ...]
    """What it said; empty where the call failed."""
    failure: str = ""
    """Why there is no completion."""


class Draft(Frozen):
    """An answer on its way: the drafts that it was made from are in it."""

    text: str
    """What the model said."""
    answer: str | None
    """The answer in it, `None` if there is none."""
    by: str
    """Name of the strategy that made it."""
    score: float | None = None
    """What the strategy thought of it, on that strategy's own scale; never the truth."""
    certainty: float | None = None
    """Mean log-probability of its tokens, nats, where it was asked for."""
    of: tuple[Draft, ...] = ()
    """Drafts that it was chosen from or made of, in their order."""
    revised: bool = False
    """Whether `of` is a history of revisions, the first draft first."""


class Answer(Frozen):
    """What came out."""

    draft: Draft
    """The answer and how it came to be."""
    price: Price
    """What it cost."""
    steps: tuple[Step, ...]
    """Every request, in the order in which they ended."""
    stopped: str = ""
    """What kept the strategy from its end: `calls`, `tokens` or `seconds` spent, or a failed call; else empty."""
    lost: bool = False
    """Whether a call got no answer because the model could not be reached: nothing against the strategy."""
    lessons: tuple[str, ...] = ()
    """Advice that the strategy drew on the way, for a memory."""

    @property
    def text(self) -> str | None:
        """The answer, `None` if there is none."""
        return self.draft.answer


class Spent(Exception):
    """The budget is spent; the message names the bound."""


@runtime_checkable
class Strategy(Protocol):
    """How a task is answered."""

    def __call__(self, work: Work, n: int = 1, /) -> Awaitable[list[Draft]]:
        """Return up to `n` drafts, at least one; fewer where the budget ended or calls failed.

        Raises:
            Spent: the budget ended before there was any.
            ServingError: the model could not be asked.
        """


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
                self.stopped = self.stopped or name
                raise Spent(name)
        self.calls += 1

    def end(self, messages: Sequence[Message], completions: Sequence[Completion], failure: str = "") -> None:
        """Note what came of it."""
        self.stopped = self.stopped or failure
        self.steps.append(Step(messages=tuple(messages), completions=tuple(completions), failure=failure))


class Form(Protocol):
    """What a strategy needs of an environment."""

    def system_prompt(self, task: Task) -> str:
        """See `Environment.system_prompt`."""
        ...

    def parse(self, task: Task, text: str) -> str | None:
        """See `Environment.parse`."""
        ...

    async def check(self, task: Task, answer: str | None) -> Checked:
        """See `Environment.check`."""
        ...


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
        """See `Gateway.complete`.

        Raises:
            Spent: the budget is spent, or its time ended while the model was speaking.
        """
        async with self.tally.turn:
            self.tally.begin()
            try:
                async with asyncio.timeout(self.tally.left):
                    found = await self._gateway.complete(messages, sampling, on_text)
            except TimeoutError:
                self.tally.end(messages, (), "seconds")
                raise Spent("seconds") from None
            except ServingError as error:
                self.tally.lost = self.tally.lost or not isinstance(error, Refused)
                self.tally.end(messages, (), f"{type(error).__name__}: {error}")
                raise
            self.tally.end(messages, found)
            return found


@dataclass(frozen=True)
class Work:
    """One task and everything a strategy may use to answer it."""

    task: Task
    """What is to be answered. Its key and answer are not a strategy's business."""
    form: Form
    """Says what form an answer has, reads it, and judges it; an environment does."""
    meter: Meter
    """The model."""
    opening: tuple[Message, ...]
    """How the task is put to the solver: system, whatever memory adds, the question."""
    max_tokens: int = 256
    """Bound on one completion, tokens."""
    temperature: float = 0.0
    """Of a single draft; 0 is greedy."""
    heat: float = 1.0
    """Temperature of drafts that are to differ."""
    seed: int = 0
    """Everything random is derived from it."""
    advice: tuple[str, ...] = ()
    """What the strategy has learned on the way."""
    toolbox: Toolbox = field(default_factory=Toolbox)
    """Tools."""
    bounds: Bounds = field(default_factory=Bounds)
    """How far an answer with tools may go."""
    logprobs: bool = False
    """Whether drafts are to say how certain the model was."""
    may_check: bool = False
    """Whether the environment's checker may be used while answering (public tests; never a hidden key)."""
    others: tuple[Gateway, ...] = ()
    """Other models that may take part."""
    routes: Mapping[str, str] = field(default_factory=dict)
    """Family to strategy, for `auto`."""
    best: list[Draft] = field(default_factory=list)
    """Noted drafts, the best last: what comes out if the strategy is stopped."""
    lessons: list[str] = field(default_factory=list)
    """See `Answer.lessons`."""

    def prompt(self, *more: Message) -> tuple[Message, ...]:
        """Return the opening, with the advice in its system prompt, and `more` after it."""
        system, *rest = self.opening
        return (system.model_copy(update={"content": advised(system.content, self.advice)}), *rest, *more)

    def branch(self, index: int) -> Work:
        """Return the work of one of several independent drafts: another seed, and sampled."""
        return replace(self, seed=derive(self.seed, index), temperature=self.heat)

    async def ask(self, messages: Sequence[Message], n: int = 1, **sampling: Any) -> list[Completion]:
        """Ask the model; `sampling` holds fields of `Sampling`. The seed depends on the work's and on what is asked."""
        said = content_id(*(f"{message.role} {message.content}" for message in messages))
        settings: dict[str, Any] = {
            "n": n,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature if n == 1 else self.heat,
            "seed": derive(self.seed, said, n),
            "logprobs": self.logprobs,
        }
        return await self.meter.complete(list(messages), Sampling(**(settings | sampling)))

    async def choose(self, messages: Sequence[Message], options: Sequence[str]) -> str | None:
        """Have the model choose one of the options; `None` if it names none of them."""
        schema = {
            "type": "object",
            "properties": {"choice": {"enum": list(options)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
        (said,) = await self.ask(messages, temperature=0.0, schema=schema, max_tokens=24)
        try:
            found = json.loads(said.text)["choice"]
        except (ValueError, KeyError, TypeError):
            return None
        return found if found in options else None

    def draft(self, completion: Completion, by: str, **rest: Any) -> Draft:
        """Read a completion; what was cut off holds no answer."""
        cut = completion.finish_reason == "length"
        answer = None if cut else self.form.parse(self.task, completion.text)
        chances = completion.logprobs
        certainty = sum(chances) / len(chances) if chances else None
        return Draft(text=completion.text, answer=answer, by=by, certainty=certainty, **rest)

    def note(self, draft: Draft) -> Draft:
        """Remember a draft as the best so far, if it holds an answer; return it."""
        if draft.answer is not None or not self.best:
            self.best.append(draft)
        return draft

    async def check(self, draft: Draft) -> bool | None:
        """Have the environment's checker judge a draft, `None` for no verdict.

        Raises:
            UsageError: the checker may not be used here.
        """
        if not self.may_check:
            raise UsageError(
                "this strategy asks the environment's checker, which may not be used while answering here: it would "
                "look at the key. Choose by the critic or by certainty."
            )
        score = (await self.form.check(self.task, draft.answer)).score
        return None if score is None else score == 1.0

    async def judge(self, draft: Draft) -> Critique:
        """Have the critic judge a draft; what holds no answer is wrong without asking."""
        if draft.answer is None:
            return Critique(trajectory_id="", verdict="wrong", confidence=0.0, fault="there is no answer")
        return await Critic(self.meter).judge("", self.task.question, draft.answer, seed=self.seed)

    def speaker(self, index: int) -> Work:
        """Return the work of the `index`-th of those who take part: this model, then the others, in turn."""
        others = [self.meter, *(self.meter.through(gateway) for gateway in self.others)]
        return replace(self, meter=others[index % len(others)])


async def answer_task(strategy: Strategy, work: Work) -> Answer:
    """Answer a task by a strategy; whatever stops it, the best draft comes out.

    Raises:
        DeliveryError: no policy is proved; the run must stop.
        UsageError: the strategy cannot be used with this work.
    """
    try:
        draft = (await strategy(work))[0]
    except DeliveryError:
        raise
    except (Spent, ServingError):
        draft = work.best[-1] if work.best else Draft(text="", answer=None, by="nothing")
    return Answer(
        draft=draft,
        price=work.meter.tally.price,
        steps=tuple(work.meter.tally.steps),
        stopped=work.meter.tally.stopped,
        lost=work.meter.tally.lost,
        lessons=tuple(work.lessons),
    )


async def several(work: Work, n: int, one: Callable[[Work], Awaitable[Draft]]) -> list[Draft]:
    """Make `n` drafts side by side, each in a branch of its own; with n = 1 in the work itself.

    Returns:
        Those that could be made, at least one.

    Raises:
        Spent, ServingError: none could be made.
    """
    if n == 1:
        return [await one(work)]
    found = await asyncio.gather(*(one(work.branch(i)) for i in range(n)), return_exceptions=True)
    failures = [error for error in found if isinstance(error, BaseException)]
    for error in failures:
        if isinstance(error, DeliveryError) or not isinstance(error, Spent | ServingError):
            raise error
    drafts = [draft for draft in found if isinstance(draft, Draft)]
    if not drafts:
        raise failures[0]
    return drafts
