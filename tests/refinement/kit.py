"""A model whose words are a function of what it is asked, and one task of a real environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from autotelic.agents import Solver
from autotelic.core.words import Completion, Message, Task
from autotelic.environments import make_environment
from autotelic.refinement import Budget, Examples, Meter, Work
from autotelic.serving import Gateway, Sampling, ScriptedBackend

ENVIRONMENT = make_environment({"name": "reasoning_gym", "families": ["gcd"]})
TASK = ENVIRONMENT.tasks(1, seed=3)[0]
RIGHT = str(TASK.answer)

Says = Callable[[str, int], str | tuple[str, float]]
"""From the last message and the number of the sample to a text, and where it matters its tokens' log-probability."""


class Model(ScriptedBackend):
    """Says what `says` says, and keeps what it was asked. Its n-th call overall may fail."""

    def __init__(self, says: Says, *, fails_at: int = 0, error: type[Exception] = ConnectionError) -> None:
        self.asked: list[tuple[list[Message], Sampling]] = []
        self._says, self._fails_at, self._error = says, fails_at, error
        super().__init__(lambda _m, _s: [])

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        self.asked.append((list(messages), sampling))
        if len(self.asked) == self._fails_at:
            raise self._error("the line is cut")
        found = []
        for index in range(sampling.n):
            said = self._says(messages[-1].content, index)
            text, chance = said if isinstance(said, tuple) else (said, -1.0)
            size = len(text.split())
            found.append(
                Completion(
                    text=text,
                    finish_reason="stop",
                    prompt_tokens=sum(len(m.content.split()) for m in messages),
                    completion_tokens=size,
                    logprobs=(chance,) * size if sampling.logprobs else (),
                    alternatives=({text: chance, "": chance - 1.0},) if sampling.alternatives else (),
                    policy=policy,
                )
            )
        return found

    def asks(self, part: str) -> int:
        """How many calls asked for something whose last message holds `part`."""
        return sum(part in messages[-1].content for messages, _ in self.asked)


def work(model: Model, budget: Budget | None = None, task: Task = TASK, **rest: Any) -> Work:
    gateway = Gateway(model, attempts=1, backoff=0.0)
    gateway.unblock(5)
    form = rest.pop("form", ENVIRONMENT)
    opening = Solver(gateway, form).messages(task)
    return Work(task=task, form=form, meter=Meter(gateway, budget), opening=opening, **rest)


def remembered(size: int) -> Examples:
    """A memory of `size` solved examples, the nearest first: `like 0?`, answered `0`."""

    async def find(k: int) -> list[tuple[Message, ...]]:
        return [
            (Message(role="user", content=f"like {i}?"), Message(role="assistant", content=str(i)))
            for i in range(min(k, size))
        ]

    return find


def in_turn(*texts: str | tuple[str, float]) -> Says:
    """The texts one after the other, over all calls and samples; the last one for ever."""
    left = list(texts)
    return lambda _asked, _index: left.pop(0) if len(left) > 1 else left[0]


JUDGE = "Is the answer right or wrong?"


def judged(verdict: str, fault: str = "") -> str:
    return json.dumps({"verdict": verdict, "fault": fault, "advice": ""})


def judging(right: Callable[[str], bool], otherwise: Says) -> Says:
    """A model that as a critic says what `right` says of the answer, and else what `otherwise` says."""

    def says(asked: str, index: int) -> str | tuple[str, float]:
        if JUDGE in asked:
            answer = asked.split("\n\nAnswer:\n")[1].split("\n")[0]
            return judged("right" if right(answer) else "wrong", fault="it is too small")
        return otherwise(asked, index)

    return says
