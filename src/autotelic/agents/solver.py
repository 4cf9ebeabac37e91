"""The solver answers a task. What memory adds stands between the system prompt and the task as earlier turns.

So the prompt with memory and the prompt without it differ by whole turns only, and the bare prompt is what training
sees: what the model could do with help becomes what it does without (trajectory distillation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from autotelic.agents.tool_loop import CallRecord, ToolLoop, Turn
from autotelic.core.seeds import derive
from autotelic.core.waiting import side_by_side
from autotelic.core.words import Completion, Message, Task
from autotelic.environments import Environment
from autotelic.serving import TOO_LONG, Gateway, Sampling

__all__ = ["NO_ANSWER", "Attempt", "Solver", "advised", "demonstration_turns"]

NO_ANSWER = {"length": "truncated", TOO_LONG: TOO_LONG}
"""Reasons why a completion is no answer, by how it ended."""


@dataclass(frozen=True)
class Attempt:
    """One judged answer."""

    completion: Completion
    """The last turn. Its counts of tokens are those of the whole answer."""
    answer: str | None
    score: float | None
    reason: str
    turns: tuple[dict[str, Any], ...] = ()
    """What was said between the prompt and the last turn; the model's own turns with their token ids."""
    calls: tuple[CallRecord, ...] = ()
    """Calls of tools."""
    prompt: tuple[Message, ...] | None = None
    """The prompt, where it is not the solver's own: an agent has one of its own making."""
    bare: tuple[Message, ...] | None = None
    """The same without what memory added."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the prompt offered, in OpenAI's form."""


class Solver:
    """Answers tasks of one environment through the gateway.

    Args:
        gateway: where model calls go.
        environment: parses and checks the answers.
        loop: answers with tools; without it an answer is one turn.
    """

    def __init__(self, gateway: Gateway, environment: Environment, loop: ToolLoop | None = None) -> None:
        self._gateway = gateway
        self._environment = environment
        self._loop = loop

    def messages(self, task: Task, examples: Sequence[Message] = (), advice: Sequence[str] = ()) -> tuple[Message, ...]:
        """Return the prompt: system with lessons, the turns of solved examples, the task."""
        return (
            Message(role="system", content=advised(self._environment.system_prompt(task), advice)),
            *examples,
            Message(role="user", content=task.question),
        )

    async def attempt(self, task: Task, messages: Sequence[Message], sampling: Sampling) -> list[Attempt]:
        """Sample `sampling.n` answers and judge each.

        Returns:
            One attempt per sample. An answer that was cut off is `truncated` and never right: what it would have been
            is not known. To a prompt beyond the model's context there is none: `too_long`.
        """
        if self._loop is not None:
            loop = await self._loop.narrowed(task.question)
            return await side_by_side(self._converse(loop, task, messages, sampling, i) for i in range(sampling.n))
        completions = await self._gateway.attempt(messages, sampling)
        return [await self._judge(task, completion) for completion in completions]

    async def _judge(self, task: Task, completion: Completion) -> Attempt:
        if completion.finish_reason in NO_ANSWER:
            return Attempt(completion, None, 0.0, NO_ANSWER[completion.finish_reason])
        answer = self._environment.parse(task, completion.text)
        checked = await self._environment.check(task, answer)
        return Attempt(completion, answer, checked.score, checked.reason)

    async def _converse(
        self, loop: ToolLoop, task: Task, messages: Sequence[Message], sampling: Sampling, sample: int
    ) -> Attempt:
        """Answer with tools; each sample is a conversation of its own."""
        seed = None if sampling.seed is None else derive(sampling.seed, sample)
        talk = await loop.answer(messages, replace(sampling, n=1, seed=seed))
        own = iter(talk.turns)
        turns = tuple(
            _recorded(m, next(own) if m.role == "assistant" else None) for m in talk.messages[len(messages) :]
        )
        made = [turn.completion for turn in talk.turns]
        counts = {name: sum(getattr(c, name) for c in made) for name in ("prompt_tokens", "completion_tokens")}
        last = made[-1].model_copy(update=counts)
        spoken = max((at for at, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
        rest: dict[str, Any] = {"turns": turns[:spoken], "calls": tuple(talk.calls), "tools": loop.offered}
        if talk.answer is None:
            return Attempt(last, None, 0.0, talk.reason, **rest)
        answer = self._environment.parse(task, talk.answer)
        checked = await self._environment.check(task, answer)
        return Attempt(last, answer, checked.score, checked.reason, **rest)


def advised(system: str, advice: Sequence[str]) -> str:
    """Return a system prompt with lessons after it."""
    learned = "".join(f"\n- {line}" for line in advice)
    return f"{system}\n\nAdvice from experience:{learned}" if learned else system


def demonstration_turns(pairs: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Render (question, answer) pairs as user and assistant turns."""
    turns: list[Message] = []
    for question, answer in pairs:
        turns += (Message(role="user", content=question), Message(role="assistant", content=answer))
    return tuple(turns)


def _recorded(message: Message, turn: Turn | None) -> dict[str, Any]:
    kept = message.model_dump(mode="json", exclude_defaults=True)
    return kept if turn is None else kept | {"token_ids": list(turn.completion.token_ids)}
