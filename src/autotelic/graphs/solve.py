"""The solve graph: recall -> draft, as a LangGraph state machine over one task.

The same graph serves `autotelic run solve`, bulk rollouts and evaluation. Who has recalled already (a whole round at
once, in one batch) passes the demonstrations in, and `recall` is skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from autotelic.agents import Attempt, Solver
from autotelic.core.words import Message, Task
from autotelic.memory import Demonstration
from autotelic.serving import Sampling

__all__ = ["SolveState", "build_solve"]

Recall = Callable[[Task], Awaitable[list[Demonstration]]]


class SolveState(TypedDict, total=False):
    """State of one solve."""

    task: Task
    sampling: Sampling
    demonstrations: list[Demonstration]
    messages: tuple[Message, ...]
    bare_messages: tuple[Message, ...]
    attempts: list[Attempt]


def build_solve(solver: Solver, recall: Recall | None = None) -> Any:
    """Compile the graph.

    Args:
        solver: who answers.
        recall: finds demonstrations for a task; without it only those passed in are used.

    Returns:
        A compiled LangGraph graph over `SolveState`; give it `task` and `sampling`.
    """

    async def find(state: SolveState) -> SolveState:
        return {"demonstrations": await recall(state["task"]) if recall else []}

    async def draft(state: SolveState) -> SolveState:
        task = state["task"]
        messages = solver.messages(task, [m for shown in state["demonstrations"] for m in shown.messages])
        attempts = await solver.attempt(task, messages, state["sampling"])
        return {"messages": messages, "bare_messages": solver.messages(task), "attempts": attempts}

    graph = StateGraph(SolveState)
    graph.add_node("recall", find)
    graph.add_node("draft", draft)
    graph.add_conditional_edges(START, lambda state: "draft" if "demonstrations" in state else "recall")
    graph.add_edge("recall", "draft")
    graph.add_edge("draft", END)
    return graph.compile()
