"""The graph behind `autotelic run solve`: one open question, answered with what memory and tools there are.

recall -> draft -> (act -> draft)* as a LangGraph state machine. With tools every turn of the model is held to a schema
by guided decoding, so that a small model cannot break the form: first a call, for whoever names tools wants them used,
then calls or an answer. What a call came to, also when it failed, is the next message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from autotelic.agents import demonstration_turns
from autotelic.core.errors import UsageError
from autotelic.core.words import Message
from autotelic.environments import plain_answer
from autotelic.memory import DemonstrationMemory, Query
from autotelic.serving import Gateway, Sampling
from autotelic.tools import Tool

__all__ = ["AskState", "GraphContext", "build_ask"]

PLAIN = "Answer the question. Reply with the answer only."
TOOLED = 'Answer the question. To use a tool reply {"tool": NAME, "arguments": {...}}; when you know the answer reply '


@dataclass(frozen=True)
class GraphContext:
    """What a registered graph is built from: `builder(context)` returns a compiled LangGraph graph."""

    gateway: Gateway
    """Where model calls go."""
    memory: DemonstrationMemory | None = None
    """Demonstrations of a run, if one was named."""
    tools: tuple[Tool, ...] = ()
    """Tools that may be called."""
    demonstrations: int = 3
    """Solved examples taken from the memory."""
    max_calls: int = 4
    """Most tool calls in one answer."""
    max_tokens: int = 256
    """Bound on one turn of the model, tokens."""


class AskState(TypedDict, total=False):
    """`question` goes in, `answer` comes out; the rest is how it came to be, as plain data."""

    question: str
    messages: list[dict[str, str]]
    memory_ids: list[str]
    calls: list[dict[str, Any]]
    pending: dict[str, Any] | None
    answer: str | None


def build_ask(context: GraphContext) -> Any:
    """Compile the graph; give it `question`, read `answer`, `calls`, `messages` and `memory_ids`.

    The tool budget is part of the schema: when it is spent, only an answer fits.
    """
    tools = {tool.name: tool for tool in context.tools}

    async def recall(state: AskState) -> AskState:
        if not str(state.get("question") or "").strip():
            raise UsageError('the graph solve needs a question: --input \'{"question": "..."}\'')
        found = []
        if context.memory is not None:
            found = (await context.memory.retrieve([Query(state["question"])], context.demonstrations))[0]
        said = {d.question: json.dumps({"answer": d.answer}) if tools else d.answer for d in found}
        turns = demonstration_turns(list(said.items()))
        messages = [Message(role="system", content=_system(context.tools)), *turns]
        messages.append(Message(role="user", content=state["question"]))
        return {"messages": _plain(messages), "memory_ids": [d.id for d in found], "calls": []}

    async def draft(state: AskState) -> AskState:
        allowed = context.tools if len(state["calls"]) < context.max_calls else ()
        schema = _schema(allowed, answer=bool(state["calls"])) if tools else None
        sampling = Sampling(temperature=0.0, max_tokens=context.max_tokens, schema=schema)
        messages = [Message.model_validate(m) for m in state["messages"]]
        text = (await context.gateway.complete(messages, sampling))[0].text
        said = [*state["messages"], {"role": "assistant", "content": text}]
        if not tools:
            return {"messages": said, "answer": plain_answer(text), "pending": None}
        turn = _parse(text)
        return {"messages": said, "answer": turn.get("answer"), "pending": turn if "tool" in turn else None}

    async def act(state: AskState) -> AskState:
        call = state["pending"] or {}
        result = await tools[call["tool"]](call["arguments"])
        done = {"tool": call["tool"], "arguments": call["arguments"], **result.model_dump()}
        told = {"role": "user", "content": f"{call['tool']} returned: {result.content}"}
        return {"messages": [*state["messages"], told], "calls": [*state["calls"], done], "pending": None}

    graph = StateGraph(AskState)
    for name, node in (("recall", recall), ("draft", draft), ("act", act)):
        graph.add_node(name, node)
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "draft")
    graph.add_conditional_edges("draft", lambda state: "act" if state["pending"] else END, ["act", END])
    graph.add_edge("act", "draft")
    return graph.compile()


def _system(tools: Sequence[Tool]) -> str:
    if not tools:
        return PLAIN
    lines = [f"- {t.name}: {' '.join(t.description.split())} Arguments: {json.dumps(t.parameters)}" for t in tools]
    return "\n".join([TOOLED + '{"answer": "..."}. Tools:', *lines])


def _schema(tools: Sequence[Tool], *, answer: bool) -> dict[str, Any]:
    def closed(**properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    calls = [closed(tool={"const": tool.name}, arguments=tool.parameters) for tool in tools]
    return {"anyOf": [*calls, *([closed(answer={"type": "string"})] if answer else [])]}


def _parse(text: str) -> dict[str, Any]:
    """A turn as data; one that was cut off by the token limit is neither a call nor an answer."""
    try:
        turn = json.loads(text)
    except ValueError:
        return {}
    return turn if isinstance(turn, dict) else {}


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]
