"""The graph behind `autotelic run refine`: one open question, answered by a strategy, with its drafts and its price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from autotelic.core.words import Message, Task
from autotelic.environments import Checked, plain_answer
from autotelic.graphs.ask import PLAIN, GraphContext, opening, require_question
from autotelic.graphs.session import as_dicts
from autotelic.graphs.strategy_solver import examples_in, reached
from autotelic.memory import Query
from autotelic.refinement import Meter, Work, build_strategy

__all__ = ["RefineState", "build_refine", "open_work"]


class RefineState(TypedDict, total=False):
    """`question` goes in, `answer` comes out; the rest is how it came to be, as plain data."""

    question: str
    messages: list[dict[str, Any]]
    memory_ids: list[str]
    answer: str | None
    drafts: list[dict[str, Any]]
    price: dict[str, Any]
    stopped: str


class _Open:
    """The form of an open question: any text is an answer, and nobody knows the right one."""

    def system_prompt(self, task: Task) -> str:  # noqa: ARG002
        return PLAIN

    def parse(self, task: Task, text: str) -> str | None:  # noqa: ARG002
        return plain_answer(text)

    async def check(self, task: Task, answer: str | None) -> Checked:  # noqa: ARG002
        return Checked(score=None, reason="no_checker")


def open_work(context: GraphContext, messages: Sequence[Message], question: str) -> Work:
    """Return the work of an open question.

    Args:
        context: who answers, and at what price.
        messages: how it is put to the solver; the first is the system's.
        question: what is asked, in itself.
    """
    return Work(
        task=Task.make(environment="open", family="open", question=question, key={}),
        form=_Open(),
        meter=Meter(context.gateway, context.budget),
        opening=tuple(messages),
        max_tokens=context.max_tokens,
        toolbox=context.toolbox,
        bounds=context.bounds,
        others=context.others,
        examples=examples_in(context.memory, Query(question, scopes=context.scopes)) if context.memory else None,
    )


def build_refine(context: GraphContext) -> Any:
    """Compile the graph; give it `question`, read `answer`, `drafts`, `price` and `stopped`."""
    strategy = build_strategy(context.strategy)

    async def recall(state: RefineState) -> RefineState:
        require_question(state.get("question"), "refine")
        messages, ids = await opening(context, PLAIN, state["question"])
        return {"messages": as_dicts(messages), "memory_ids": ids}

    async def answer(state: RefineState) -> RefineState:
        work = open_work(context, [Message.model_validate(m) for m in state["messages"]], state["question"])
        found = await reached(strategy, work, partly=True)
        get_stream_writer()({"node": "answer", "token": found.text or ""})
        said = Message(role="assistant", content=found.text or "")
        return {
            "messages": [*state["messages"], *as_dicts([said])],
            "answer": found.text,
            "drafts": [draft.model_dump(mode="json", exclude={"of", "first"}) for draft in found.draft.of],
            "price": found.price.model_dump(mode="json"),
            "stopped": found.stopped,
        }

    graph = StateGraph(RefineState)
    graph.add_node("recall", recall)
    graph.add_node("answer", answer)
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "answer")
    graph.add_edge("answer", END)
    return graph.compile()
