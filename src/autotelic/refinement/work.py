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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import Field

from autotelic.agents import Bounds, Critic, advised
from autotelic.core.errors import DeliveryError, ServingError, UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Completion, Critique, Frozen, Message, Task, content_id
from autotelic.environments import Checked, ShowsExamples
from autotelic.refinement.meter import Meter, Price, Spent, Step
from autotelic.serving import Gateway, Sampling
from autotelic.tools import Toolbox

__all__ = [
    "ABREAST",
    "IN_TURN",
    "LIKELIEST",
    "Answer",
    "Count",
    "Draft",
    "Examples",
    "Form",
    "Heat",
    "Share",
    "Strategy",
    "Surety",
    "Width",
    "Work",
    "answer_task",
    "strategy_of",
]

T = TypeVar("T")
Examples = Callable[[int], Awaitable[Sequence[tuple[Message, ...]]]]
"""Gives the turns of up to so many solved examples that are like the task, the nearest first."""
ABREAST, IN_TURN = "abreast", "in turn"
"""Mark parameters that count what goes side by side, and what goes one after the other: see `fan_out`."""
_Bounded = Annotated[int, Field(ge=1, le=1000, strict=True)]  # a request from outside may name it
Width = Annotated[_Bounded, ABREAST]
"""A parameter that counts what may go side by side."""
Count = Annotated[_Bounded, IN_TURN]
"""A parameter that counts what goes one after the other."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A parameter in [0, 1]."""
Heat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A temperature."""
LIKELIEST = 20
"""Tokens in one place that a server tells the log-probabilities of; OpenAI's bound."""
Surety = Literal["certainty", "likelihood"]
"""How sure a model was of a draft, from its log-probabilities, as a mean over its tokens.

`certainty`: how far the likeliest tokens' are below 0 on average, which is large where one token stands out. It is
self-certainty (arXiv 2502.18581), the distance of the distribution to the even one, but for a constant; deviation: over
the 20 likeliest tokens, as in arXiv 2508.15260, because servers tell no whole distributions. `likelihood`: those of the
tokens that were sampled.
"""
_IMPOSSIBLE = -100.0
"""Log-probability below which a token was ruled out, by what guides the answer."""


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
    """How sure the model was of its tokens, on average, nats: see `Surety`. `None` where it was not asked for."""
    of: tuple[Draft, ...] = ()
    """Drafts that it was chosen from or made of, in their order."""
    first: Draft | None = None
    """What was there before the revisions that led to it, `None` if nothing was revised."""
    learned: tuple[str, ...] = ()
    """Advice that was drawn on the way to it, for a memory."""

    @property
    def begun(self) -> Draft:
        """The draft before all revisions: itself, if there were none."""
        return self.first or self


class Answer(Frozen):
    """What came out."""

    draft: Draft
    """The answer and how it came to be."""
    price: Price
    """What it cost."""
    steps: tuple[Step, ...]
    """Every request, in the order in which they ended."""
    stopped: str = ""
    """What kept the strategy from its end: `calls`, `tokens` or `seconds` spent, `too_long`, or a failed call."""
    lost: bool = False
    """Whether a call got no answer because the model could not be reached: nothing against the strategy."""

    @property
    def text(self) -> str | None:
        """The answer, `None` if there is none."""
        return self.draft.answer


@runtime_checkable
class Strategy(Protocol):
    """How a task is answered."""

    def __call__(self, work: Work, n: int = 1, /) -> Awaitable[list[Draft]]:
        """Return up to `n` drafts, at least one; fewer where the budget ended or calls failed.

        Raises:
            Spent: the budget ended before there was any.
            ServingError: the model could not be asked.
        """


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
    heat: float = 0.7
    """Temperature of drafts that are to differ; 0.5 to 0.7 in the papers that vote."""
    seed: int = 0
    """Everything random is derived from it."""
    advice: tuple[str, ...] = ()
    """What the strategy has learned on the way."""
    toolbox: Toolbox = field(default_factory=Toolbox)
    """Tools."""
    bounds: Bounds = field(default_factory=Bounds)
    """How far an answer with tools may go."""
    surety: Surety | None = None
    """How drafts are to say how sure the model was of them, if they are."""
    may_check: bool = False
    """Whether the environment's checker may be used while answering: in rollouts, which are checked anyway, and where
    tests are public; never where a hidden key measures the answer."""
    others: tuple[Gateway, ...] = ()
    """Other models that may take part."""
    routes: Mapping[str, str] = field(default_factory=dict)
    """Family to strategy, for `auto`."""
    prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Role to evolved prompts, for `prompted`: see `PromptRow.prompts`."""
    examples: Examples | None = None
    """The memory, `None` where there is none."""
    critic: str | None = None
    """System prompt of the critic; by default its own."""
    best: list[Draft] = field(default_factory=list)
    """Noted drafts, the best last: what comes out if the strategy is stopped, or ends without an answer."""

    def prompt(self, *more: Message) -> tuple[Message, ...]:
        """Return the opening, with the advice in its system prompt, and `more` after it.

        Where the user would speak twice in a row it is one turn: many chat templates refuse two.
        """
        system, *rest = self.opening
        if rest and more and rest[-1].role == more[0].role == "user":
            said = f"{rest[-1].content}\n\n{more[0].content}"
            rest, more = [*rest[:-1], rest[-1].model_copy(update={"content": said})], more[1:]
        return (system.model_copy(update={"content": advised(system.content, self.advice)}), *rest, *more)

    def heated(self, heat: float | None) -> Work:
        """Return the work with another temperature for drafts that are to differ; `None` leaves it."""
        return self if heat is None else replace(self, heat=heat)

    def aside(self) -> Work:
        """Return the work of a part of the answer: what it notes counts only as long as nothing else is noted."""
        return replace(self, best=[]) if self.best else self

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
            "logprobs": self.surety == "likelihood",
            "alternatives": LIKELIEST if self.surety == "certainty" else 0,
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
        sure = list(completion.logprobs)
        if self.surety == "certainty":
            places = [[p for p in known.values() if p > _IMPOSSIBLE] for known in completion.alternatives]
            sure = [-fmean(possible) for possible in places if len(possible) > 1]
        return Draft(text=completion.text, answer=answer, by=by, certainty=fmean(sure) if sure else None, **rest)

    def note(self, draft: Draft) -> Draft:
        """Remember a draft as the best so far, if it holds an answer; return it."""
        if draft.answer is not None or not self.best:
            self.best.append(draft)
        return draft

    def require_checker(self) -> None:
        """Refuse to go on where the checker may not be used.

        Raises:
            UsageError: it may not.
        """
        if not self.may_check:
            raise UsageError(
                "this strategy asks the environment's checker, which may not be used while answering here: it would "
                "look at the key. Choose by the critic or by certainty."
            )

    async def check(self, draft: Draft) -> bool | None:
        """Have the environment's checker judge a draft, `None` for no verdict.

        Raises:
            UsageError: the checker may not be used here.
        """
        self.require_checker()
        score = (await self.form.check(self.task, draft.answer)).score
        return None if score is None else score == 1.0

    async def try_out(self, draft: Draft) -> Checked | None:
        """Run a draft on the examples that the task shows, `None` where it shows none. The key is not looked at."""
        return await self.form.try_out(self.task, draft.answer or "") if isinstance(self.form, ShowsExamples) else None

    async def judge(self, draft: Draft) -> Critique:
        """Have the critic judge a draft; what holds no answer is wrong without asking."""
        if draft.answer is None:
            return Critique(trajectory_id="", verdict="wrong", confidence=0.0, fault="there is no answer")
        return await Critic(self.meter, system=self.critic).judge("", self.task.question, draft.answer, seed=self.seed)

    async def within(self, doing: Awaitable[T]) -> T:
        """Wait for what is more than a call of the model, e.g. tools, as long as the budget's seconds last.

        Raises:
            Spent: they are over.
        """
        tally = self.meter.tally
        try:
            async with asyncio.timeout(tally.left) as clock:
                return await doing
        except TimeoutError:
            if not clock.expired():
                raise
            tally.cut(spent := Spent("seconds"))
            raise spent from None

    async def ensure_answer(self) -> None:
        """Under a budget, note a direct answer first, for what else has none to give until many calls were made."""
        if str(self.meter.tally.budget):
            (said,) = await self.ask(self.prompt())
            self.note(self.draft(said, "direct"))

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
    tally, draft = work.meter.tally, Draft(text="", answer=None, by="nothing")
    try:
        draft = (await strategy(work))[0]
    except DeliveryError:
        raise
    except (Spent, ServingError) as error:
        tally.cut(error)
    if work.best and (draft.by == "nothing" or (draft.answer is None and work.best[-1].answer is not None)):
        draft = work.best[-1]
    return Answer(draft=draft, price=tally.price, steps=tuple(tally.steps), stopped=tally.stopped, lost=tally.lost)


def strategy_of(one: Callable[[Work], Awaitable[Draft]]) -> Strategy:
    """Return the strategy that makes its drafts by `one`, side by side, each in a branch of its own."""

    async def strategy(work: Work, n: int = 1) -> list[Draft]:
        return await _several(work, n, one)

    return strategy


async def _several(work: Work, n: int, one: Callable[[Work], Awaitable[Draft]]) -> list[Draft]:
    """Return the drafts that could be made; a single one is made in the work itself."""
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
    for error in failures:
        work.meter.tally.cut(error)
    return drafts
