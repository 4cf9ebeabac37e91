"""What an environment is: a source of tasks with a checker that can be trusted.

Two rules hold everywhere. Truth comes from running something, never from what a model claims; and a checker that breaks
gives no verdict (`None`), which is not the same as a wrong answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ValidationError

from autotelic.core.errors import UsageError
from autotelic.core.registry import lookup
from autotelic.core.words import Frozen, Message, Proposal, Rejection, Score, Task

__all__ = [
    "Checked",
    "Environment",
    "HoldsBack",
    "KnowsForm",
    "ShowsExamples",
    "fewer_than_asked",
    "make_environment",
    "open_environment",
    "parse_config",
    "plain_answer",
    "shares",
    "solved",
]

C = TypeVar("C", bound=BaseModel)


class Checked(Frozen):
    """A checker's verdict on one answer."""

    score: Score
    """In [0, 1]; 1.0 is right, less is partial credit, `None` is no verdict."""
    reason: str = "ok"
    """`ok` when right; otherwise `wrong`, `empty`, `malformed`, `checker_failed`, or what the environment says."""
    detail: str = ""
    """One line for a person."""

    @classmethod
    def of(cls, score: float) -> Checked:
        """Judge a scorer's number: what is not finite or outside [0, 1] is a broken checker, not a score."""
        if not math.isfinite(score) or not 0.0 <= score <= 1.0:
            return cls(score=None, reason="checker_failed", detail=f"the scorer returned {score!r}, outside [0, 1]")
        return cls(score=float(score), reason="ok" if solved(score) else "wrong")


@runtime_checkable
class Environment(Protocol):
    """A source of tasks and the judge of their answers.

    An implementation is registered under kind `environment` and is called as `factory(config, sandbox=...)` with the
    mapping that stands under `environment:` in the user's config and the name of the sandbox's back end to use; it
    raises `UsageError` when that cannot work.
    """

    name: str
    """Registered name, repeated in every `Task.environment`."""
    families: list[str]
    """Kinds of task it offers."""
    sandbox: str | None
    """Back end in which model-written code runs, known after `open`; `None` where no such code runs."""

    async def open(self) -> None:
        """Take what is needed (processes, files). Calling it twice does nothing the second time."""

    async def aclose(self) -> None:
        """Give everything back. Calling it twice, or without `open`, is fine."""

    def tasks(self, n: int, seed: int, difficulty: int | None = None) -> list[Task]:
        """Draw `n` different tasks, balanced over families, the same for the same arguments.

        Args:
            n: number of tasks.
            seed: any integer.
            difficulty: level, 0 the easiest, lowered to a family's highest where it has fewer; `None` spreads over all.

        Raises:
            EnvironmentFailure: there are not `n` different tasks.
        """
        ...

    def tools(self, task: Task) -> list[Any]:
        """Tools that the solver may call while it works on the task."""
        ...

    def system_prompt(self, task: Task) -> str:
        """A short instruction to the solver about the form of the answer. The question itself is `task.question`."""
        ...

    def parse(self, task: Task, text: str) -> str | None:
        """Find the answer in a completion, `None` if there is none. Looks at the task's family, never at its key."""
        ...

    async def check(self, task: Task, answer: str | None) -> Checked:
        """Judge a parsed answer. Never raises for what an answer holds."""
        ...

    def proposal_prompt(self, rng: Random, demonstrations: int = 3) -> list[Message]:
        """What the proposer is asked; `demonstrations=0` is the bare request that training sees."""
        ...

    def proposal_schema(self) -> dict[str, Any]:
        """JSON schema that guides the decoding of a proposal."""
        ...

    def proposal_text(self, task: Task) -> str:
        """What the proposer has to write to get a task of this kind: demonstration and training target."""
        ...

    async def validate(self, proposal: Proposal) -> Task | Rejection:
        """Make a task out of a proposal, its truth found by running it, or say why that cannot be."""
        ...


@runtime_checkable
class ShowsExamples(Protocol):
    """An environment some of whose tasks show examples that an answer can be run on while it is being sought."""

    async def try_out(self, task: Task, answer: str) -> Checked | None:
        """Run an answer on what the question shows, and on nothing else of the key.

        Returns:
            The share of examples that come out as shown, with what went wrong in `detail`; `None` if none are shown.
        """
        ...


@runtime_checkable
class HoldsBack(Protocol):
    """An environment that keeps material for suites alone, because new numbers do not make its material new."""

    def suite_tasks(self, n: int, seed: int) -> list[Task]:
        """Draw as `tasks` does, from material that neither `tasks` nor `proposal_prompt` ever shows."""
        ...


@runtime_checkable
class KnowsForm(Protocol):
    """An environment that can say in advance what an answer looks like, so that the server can hold the model to it."""

    def answer_regex(self, task: Task) -> str | None:
        """Return a regular expression that every possible answer to tasks of this family matches as a whole.

        It is a matter of the family, never of the key; `None` where answers have no such form.
        """
        ...


def make_environment(config: Mapping[str, Any], *, sandbox: str = "auto") -> Environment:
    """Build the environment that `config["name"]` names; `open` it before use.

    Args:
        config: the `environment` section of the user's config.
        sandbox: back end for model-written code.

    Raises:
        UsageError: no such environment, or its config cannot work.
    """
    if not isinstance(config.get("name"), str):
        raise UsageError(
            f"environment.name is {config.get('name')!r}; expected the name of an environment. Set environment.name."
        )
    environment: Environment = lookup("environment", config["name"])(config, sandbox=sandbox)
    return environment


@asynccontextmanager
async def open_environment(config: Mapping[str, Any], *, sandbox: str = "auto") -> AsyncIterator[Environment]:
    """`make_environment`, opened for the length of a `with` block."""
    environment = make_environment(config, sandbox=sandbox)
    try:
        await environment.open()
        yield environment
    finally:
        await environment.aclose()


def parse_config(model: type[C], config: Mapping[str, Any]) -> C:
    """Read the user's mapping into `model`, turning each pydantic complaint into one line for the user.

    Raises:
        UsageError: a key is unknown or a value cannot be read.
    """
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        lines = [_complaint(model, dict(e)) for e in error.errors()]
        raise UsageError("\n".join(lines)) from None


def _complaint(model: type[BaseModel], error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in ("environment", *error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{where} is not a key here. Keys: {', '.join(model.model_fields)}. Remove or rename it."
    return f"{where} is {error.get('input')!r}: {error['msg']}. Mend it in the config."


def solved(score: Score) -> bool:
    """Whether a score means "right": full marks only, partial credit is not enough."""
    return score is not None and score >= 1.0


_FENCE = re.compile(r"^```[^\n`]*\n(.*?)\n?```$", re.DOTALL)
_MARKER = re.compile(r"(?:\bfinal answer|\banswer)\s*(?:is\s*:?|:|=)\s*", re.IGNORECASE)
_WRAPS = (("**", "**"), ("`", "`"), ("\\boxed{", "}"), ("<answer>", "</answer>"), ("$", "$"))
_QUOTES = (('"', '"'), ("'", "'"))


def plain_answer(text: str, *, quotes: bool = True) -> str | None:
    """Take the wrapping off an answer: fences, an `Answer:` before it, bold, a full stop after a short one.

    `quotes` says whether quotation marks around it go too (in code they are part of the answer).

    Exactly one answer comes out, and it is what the model said last, so that listing guesses gains nothing.
    """
    text = text.strip()
    markers = list(_MARKER.finditer(text))
    if markers:
        text = text[markers[-1].end() :].strip()
        if text.count("**") % 2:
            text = text.removeprefix("**").strip()
    before = None
    while before != text:
        before = text
        fence = _FENCE.match(text)
        text = fence.group(1).strip() if fence else _unwrap(text, _WRAPS + _QUOTES if quotes else _WRAPS)
    return text or None


def _unwrap(text: str, wraps: tuple[tuple[str, str], ...]) -> str:
    for left, right in wraps:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and right not in inner:
            return inner.strip()
    if text.endswith(".") and text.count(".") == 1 and len(text.split()) <= 4:
        return text[:-1].rstrip()
    return text


def shares(n: int, names: Sequence[str], rng: Random) -> dict[str, int]:
    """Split `n` over `names` so that no two shares differ by more than one; who gets the rest is drawn."""
    extra = set(rng.sample(range(len(names)), n % len(names)))
    return {name: n // len(names) + (i in extra) for i, name in enumerate(names)}


def fewer_than_asked(environment: str, family: str, found: int, wanted: int) -> str:
    """Message for an `EnvironmentFailure` when a family cannot give enough different tasks."""
    return (
        f"{environment} found {found} different tasks of family {family!r}; {wanted} were asked for. "
        "Ask for fewer, or give the family larger levels."
    )
