"""Real examples for a solver with tools: the call that answers a real task, run for real, and kept if it does.

Where there are no tools the known answer is the example. With tools an example has to show the calls, and who gives a
*recipe* for a family (a function from a question to a call) lets a small model see how it is done before it can do it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from autotelic.core.dialect import answering, calling
from autotelic.core.errors import UsageError
from autotelic.core.plugins import load_source
from autotelic.core.words import Message, Task, ToolCall
from autotelic.environments import solved
from autotelic.graphs.session import Session
from autotelic.memory import Demonstration

__all__ = ["worked_examples"]

Recipe = Callable[[str], tuple[str, Mapping[str, Any]] | None]


async def worked_examples(s: Session, tasks: list[Task]) -> list[Demonstration]:
    """Work tasks by the recipes of `memory.recipes`; what a recipe gets wrong is left out.

    Raises:
        UsageError: the file is not there or cannot be imported, or a recipe fails on a question.
    """
    if s.loop is None or s.config.memory.recipes is None:
        return []
    recipes: dict[str, Recipe] = vars(load_source(s.config.memory.recipes))
    found = []
    for task in tasks:
        recipe = recipes.get(task.family)
        if recipe is None:
            continue
        try:
            made = recipe(task.question)
            if made is None:
                continue
            tool, arguments = made
            call = ToolCall(name=tool, arguments=json.dumps(dict(arguments), ensure_ascii=False))
        except Exception as error:
            raise UsageError(
                f"the recipe {task.family!r} of {s.config.memory.recipes} fails on {task.question[:200]!r}: "
                f"{type(error).__name__}: {error}. It has to return (tool, arguments) or None."
            ) from error
        (record,) = await s.loop.act([call], [])
        answer = s.environment.parse(task, record.result.content)
        if record.result.ok and solved((await s.environment.check(task, answer)).score):
            said = Message(role="assistant", content=calling([call]))
            shown = Demonstration.of(task).model_copy(
                update={"answer": answer, "turns": (said, record.message), "said": answering(str(answer))}
            )
            found.append(shown)
    return found
