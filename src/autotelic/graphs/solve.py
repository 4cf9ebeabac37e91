"""The solve graph: recall -> draft, as a LangGraph state machine over one task.

The same graph serves `autotelic run solve`, bulk rollouts and evaluation. Who has recalled already (a whole round at
once, in one batch) passes what it found in, and `recall` is skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from autotelic.agents import Attempt, Solver
from autotelic.core.words import Message, Task
from autotelic.memory import Demonstration, Lesson
from autotelic.serving import TOO_LONG, Sampling

__all__ = ["SolveState", "build_solve"]

Recalled = Sequence[Demonstration | Lesson]
Recall = Callable[[Task], Awaitable[Recalled]]


class SolveState(TypedDict, total=False):
    """State of one solve."""

    task: Task
    sampling: Sampling
    recalled: Recalled
    messages: tuple[Message, ...]
    bare_messages: tuple[Message, ...]
    attempts: list[Attempt]


def build_solve(solver: Solver, recall: Recall | None = None) -> Any:
    """Compile the graph.

    Args:
        solver: who answers.
        recall: finds demonstrations and lessons for a task; without it only those passed in are used.

    Returns:
        A compiled LangGraph graph over `SolveState`; give it `task` and `sampling`.
    """

    async def find(state: SolveState) -> SolveState:
        return {"recalled": await recall(state["task"]) if recall else []}

    async def draft(state: SolveState) -> SolveState:
        task, recalled = state["task"], list(state["recalled"])
        while True:
            examples = [m for one in recalled if isinstance(one, Demonstration) for m in one.messages]
            advice = [one.advice for one in recalled if isinstance(one, Lesson)]
            messages = solver.messages(task, examples, advice)
            attempts = await solver.attempt(task, messages, state["sampling"])
            if not recalled or any(attempt.reason != TOO_LONG for attempt in attempts):
                break
            recalled.pop()  # the nearest come first
        bare = solver.messages(task)
        return {"recalled": recalled, "messages": messages, "bare_messages": bare, "attempts": attempts}

    graph = StateGraph(SolveState)
    graph.add_node("recall", find)
    graph.add_node("draft", draft)
    graph.add_conditional_edges(START, lambda state: "draft" if "recalled" in state else "recall")
    graph.add_edge("recall", "draft")
    graph.add_edge("draft", END)
    return graph.compile()
