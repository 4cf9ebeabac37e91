"""What a person does in a chat, and what a turn of it is: words and questions that the graph is made of.

A turn is a question and how its answer came to be. An *act* is what the person does about it; all but saying something
concern the last turn, and what becomes of that is told here. What the agents do is the graph's (`chatting`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from autotelic.agents import CallRecord
from autotelic.core.errors import UsageError
from autotelic.core.faults import faults
from autotelic.core.words import Critique, Frozen, Message
from autotelic.refinement import Draft, Price

__all__ = [
    "TALK",
    "Accept",
    "Act",
    "Attached",
    "Choose",
    "Compare",
    "Edit",
    "Rate",
    "Reject",
    "Retry",
    "Said",
    "Say",
    "Turn",
    "Who",
    "Wrong",
    "acted",
    "prompt_of",
    "read_act",
]

TALK = "You are a helpful assistant."
"""System prompt of a chat."""
_MOST_CHARACTERS = 200_000


class Attached(Frozen):
    """A text file that was given with a question."""

    name: str
    """File name; directories in it are left out."""
    text: str = Field(max_length=_MOST_CHARACTERS)
    """Contents."""

    @field_validator("name")
    @classmethod
    def _bare(cls, name: str) -> str:
        return name.replace("\\", "/").rpartition("/")[2][-100:] or "file"


class Who(Frozen):
    """Who answers."""

    policy: int | None = None
    """Number of a policy, `None` for the champion or the only one."""
    strategy: str | None = None
    """How; by default drafts, critiques and revisions one can watch."""


class Say(Frozen):
    """Ask, or go on talking."""

    kind: Literal["say"] = "say"
    """Always `say`."""
    text: str = Field(min_length=1, max_length=_MOST_CHARACTERS)
    """What is said."""
    files: tuple[Attached, ...] = ()
    """What is given with it."""
    who: Who = Who()
    """Who is to answer."""


class Wrong(Frozen):
    """Say what is wrong with the answer; it is revised."""

    kind: Literal["wrong"] = "wrong"
    """Always `wrong`."""
    text: str = Field(min_length=1, max_length=4000)
    """What is wrong."""


class Retry(Frozen):
    """Have the last question answered again."""

    kind: Literal["retry"] = "retry"
    """Always `retry`."""
    who: Who = Who()
    """By whom."""


class Compare(Frozen):
    """Have the last question answered by two, not told apart, to choose from."""

    kind: Literal["compare"] = "compare"
    """Always `compare`."""
    who: tuple[Who, Who]
    """Between whom."""


class Choose(Frozen):
    """Choose one of two compared answers."""

    kind: Literal["choose"] = "choose"
    """Always `choose`."""
    index: Literal[0, 1]
    """Which, as they were shown."""


class Edit(Frozen):
    """Write the answer as it should be."""

    kind: Literal["edit"] = "edit"
    """Always `edit`."""
    text: str = Field(min_length=1, max_length=_MOST_CHARACTERS)
    """The answer."""


class Accept(Frozen):
    """Take the answer as it is."""

    kind: Literal["accept"] = "accept"
    """Always `accept`."""


class Reject(Frozen):
    """Do not take the answer."""

    kind: Literal["reject"] = "reject"
    """Always `reject`."""


class Rate(Frozen):
    """Say how good the answer is."""

    kind: Literal["rate"] = "rate"
    """Always `rate`."""
    stars: int = Field(ge=1, le=5)
    """From 1, bad, to 5, good."""


Act = Annotated[Say | Wrong | Retry | Compare | Choose | Edit | Accept | Reject | Rate, Field(discriminator="kind")]
_ACTS: TypeAdapter[Any] = TypeAdapter(Act)
_UNJUDGED: dict[str, Any] = {"replaced": None, "pair": None, "chosen": None, "stars": None}
"""What is left of the judgement of an answer once another is to take its place: nothing."""


class Said(Frozen):
    """One draft of an answer, and what the critic thinks of it."""

    text: str
    """The draft."""
    policy: int | None = None
    """Whose it is."""
    calls: tuple[CallRecord, ...] = ()
    """Tools that were called for it, in their order, with what came of each."""
    critique: Critique | None = None
    """The critic's judgement, if one was asked for."""
    price: Price | None = None
    """What it cost; in chats of before it was kept `None`."""
    stopped: str = ""
    """What cut the strategy short that it is by, see `Answer.stopped`."""
    of: tuple[Draft, ...] = ()
    """The drafts that a strategy made it of, without those that these are made of."""

    @property
    def told(self) -> str:
        """What it cost and what cut it short, in words."""
        parts = [*([str(self.price)] if self.price else []), *([f"cut short: {self.stopped}"] if self.stopped else [])]
        return "; ".join(parts)


class Turn(Frozen):
    """A question, how its answer came to be, and what the person made of it."""

    id: str
    """Unique in the thread and its forks."""
    question: str
    """What was said."""
    files: tuple[Attached, ...] = ()
    """What was given with it."""
    who: Who = Who()
    """Who was asked to answer."""
    memory_ids: tuple[str, ...] = ()
    """What the memory contributed."""
    drafts: tuple[Said, ...] = ()
    """Drafts, in their order; a retry begins anew."""
    complaints: tuple[str, ...] = ()
    """What the person said was wrong, in its order."""
    pair: tuple[Said, Said] | None = None
    """Two answers to choose from."""
    chosen: Literal[0, 1] | None = None
    """Which of them was chosen."""
    answer: str | None = None
    """The answer that stands, `None` while there is none."""
    before: str | None = None
    """What an edit replaced."""
    replaced: str | None = None
    """The answer that the last complaint is about."""
    verdict: Literal["accepted", "rejected", "edited"] | None = None
    """What the person made of it."""
    stars: int | None = None
    """How the person rated it, 1 to 5."""

    def asked(self) -> str:
        """The question as the model gets it, files first."""
        parts = [f"{file.name}:\n{file.text}" for file in self.files]
        return "\n\n".join([*parts, self.question])


def read_act(given: Any) -> Any:
    """Read an act.

    Raises:
        UsageError: it is none.
    """
    try:
        return _ACTS.validate_python(given)
    except ValidationError as error:
        raise UsageError(
            f"this is no act: {faults(error, 'act')}. An act is, e.g., {{'kind': 'say', 'text': 'hello'}}."
        ) from None


def acted(turn: Turn, act: Any) -> Turn:
    """Return the last turn after an act that concerns it.

    Raises:
        UsageError: there is nothing yet that the act could be about.
    """
    if isinstance(act, Retry):
        fresh = {"who": act.who, "drafts": (), "complaints": (), "answer": None, "before": None}
        return turn.model_copy(update={**fresh, **_UNJUDGED, "verdict": None})
    if isinstance(act, Compare):
        return turn
    if isinstance(act, Choose):
        if turn.pair is None:
            raise UsageError("there is nothing to choose from. Compare two answers first.")
        text = turn.pair[act.index].text
        fresh = {"before": None, "replaced": None, "stars": None}  # they were about the answer before
        return turn.model_copy(update={**fresh, "chosen": act.index, "answer": text, "verdict": "accepted"})
    if turn.answer is None:
        raise UsageError(f"there is no answer yet to {act.kind}.")
    if isinstance(act, Wrong):
        more = {"complaints": (*turn.complaints, act.text), "before": None, "verdict": None}
        return turn.model_copy(update={**_UNJUDGED, **more, "replaced": turn.answer})
    if isinstance(act, Edit):
        before = turn.answer if turn.before is None else turn.before
        return turn.model_copy(update={"before": before, "answer": act.text, "verdict": "edited", "stars": None})
    if isinstance(act, Rate):
        return turn.model_copy(update={"stars": act.stars})
    return turn.model_copy(update={"verdict": "accepted" if isinstance(act, Accept) else "rejected"})


def prompt_of(turns: list[Turn]) -> list[Message]:
    """Return the conversation up to the last question, as it is put to the model and as it is trained."""
    messages = [Message(role="system", content=TALK)]
    for turn in turns[:-1]:
        if turn.answer is not None and turn.verdict != "rejected":
            messages.append(Message(role="user", content=turn.asked()))
            messages.append(Message(role="assistant", content=turn.answer))
    return [*messages, Message(role="user", content=turns[-1].asked())]
