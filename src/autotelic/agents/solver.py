"""The solver answers a task. What memory adds stands between the system prompt and the task as earlier turns.

So the prompt with memory and the prompt without it differ by whole turns only, and the bare prompt is what training
sees: what the model could do with help becomes what it does without (trajectory distillation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotelic.core.words import Completion, Message, Task
from autotelic.environments import Environment
from autotelic.serving import Gateway, Sampling

__all__ = ["Attempt", "Solver", "demonstration_turns"]


@dataclass(frozen=True)
class Attempt:
    """One judged answer."""

    completion: Completion
    answer: str | None
    score: float | None
    reason: str


class Solver:
    """Answers tasks of one environment through the gateway.

    Args:
        gateway: where model calls go.
        environment: parses and checks the answers.
    """

    def __init__(self, gateway: Gateway, environment: Environment) -> None:
        self._gateway = gateway
        self._environment = environment

    def messages(self, task: Task, demonstrations: Sequence[tuple[str, str]] = ()) -> tuple[Message, ...]:
        """Return the prompt: system, solved examples as turns (question, answer), the task."""
        return (
            Message(role="system", content=self._environment.system_prompt(task)),
            *demonstration_turns(demonstrations),
            Message(role="user", content=task.question),
        )

    async def attempt(self, task: Task, messages: Sequence[Message], sampling: Sampling) -> list[Attempt]:
        """Sample `sampling.n` answers and judge each.

        Returns:
            One attempt per sample. An answer that was cut off is `truncated` and never right: what it would have been
            is not known.
        """
        completions = await self._gateway.complete(list(messages), sampling)
        return [await self._judge(task, completion) for completion in completions]

    async def _judge(self, task: Task, completion: Completion) -> Attempt:
        if completion.finish_reason == "length":
            return Attempt(completion, None, 0.0, "truncated")
        answer = self._environment.parse(task, completion.text)
        checked = await self._environment.check(task, answer)
        return Attempt(completion, answer, checked.score, checked.reason)


def demonstration_turns(pairs: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Render (question, answer) pairs as user and assistant turns."""
    turns: list[Message] = []
    for question, answer in pairs:
        turns += (Message(role="user", content=question), Message(role="assistant", content=answer))
    return tuple(turns)
