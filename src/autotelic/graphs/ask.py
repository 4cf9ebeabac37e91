"""The graph behind `autotelic run solve`: one open question, answered with what memory and tools there are.

recall -> draft -> (act -> draft)* as a LangGraph state machine over the tool loop. First comes a call, for whoever
names tools wants them used, then calls or an answer. What a call came to, also when it failed, is the next message.
A conversation that outgrows the model is shortened: the oldest results of tools first, then what was said first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from autotelic.agents import Bounds, CallRecord, Picker, ToolLoop, Turn, advised
from autotelic.core.dialect import answering
from autotelic.core.errors import UsageError
from autotelic.core.words import Message, ToolCall
from autotelic.environments import plain_answer
from autotelic.graphs.session import as_dicts
from autotelic.memory import Kind, Memory, Query
from autotelic.refinement import Budget
from autotelic.serving import TOO_LONG, Gateway, OnText, Sampling, TooLong
from autotelic.tools import Toolbox

__all__ = ["PLAIN", "AskState", "GraphContext", "build_ask", "opening", "require_question"]

PLAIN = "Answer the question. Reply with the answer only."
TOOLED = "Answer the question with the help of tools."
_SHORTEST = 300  # characters that are left of a tool's result


@dataclass(frozen=True)
class GraphContext:
    """What a registered graph is built from: `builder(context)` returns a compiled LangGraph graph."""

    gateway: Gateway
    """Where model calls go."""
    memory: Memory | None = None
    """What a run remembers, if one was named."""
    toolbox: Toolbox = field(default_factory=Toolbox)
    """Tools, and which of them may be called."""
    demonstrations: int = 3
    """Solved examples taken from the memory."""
    lessons: int = 0
    """Lessons taken from the memory."""
    scopes: tuple[str, ...] = ("run",)
    """Scopes of the memory that may be seen."""
    ranking: Mapping[str, Any] = field(default_factory=dict)
    """How the memory chooses: `keywords`, `variety` and `tokens` of `Memory.retrieve`."""
    bounds: Bounds = field(default_factory=lambda: Bounds(calls=4, turns=6, call_first=True))
    """How far one answer may go."""
    max_tokens: int = 256
    """Bound on one turn of the model, tokens."""
    picker: Picker | None = None
    """Offers a question a few of many tools; without it all that are allowed."""
    others: tuple[Gateway, ...] = ()
    """Other models that take part where a strategy of the graph `refine` lets several speak."""
    strategy: str = "self_consistency"
    """How the graph `refine` answers."""
    budget: Budget = field(default_factory=Budget)
    """How much an answer of the graph `refine` may cost."""


class AskState(TypedDict, total=False):
    """`question` goes in, `answer` comes out; the rest is how it came to be, as plain data."""

    question: str
    messages: list[dict[str, Any]]
    memory_ids: list[str]
    calls: list[dict[str, Any]]
    pending: list[dict[str, Any]]
    turns: int
    answer: str | None
    stopped: bool
    reason: str


def build_ask(context: GraphContext) -> Any:
    """Compile the graph; give it `question`, read `answer`, `calls`, `messages` and `memory_ids`.

    Where there is no answer `reason` says why: `truncated`, `no_answer` or `too_long`, see `Conversation`; else `ok`.
    """
    loop = ToolLoop(context.gateway, context.toolbox, context.bounds, context.picker)
    spoken = bool(loop.offered) and not context.gateway.backend.calls_apart

    async def recall(state: AskState) -> AskState:
        require_question(state.get("question"), "solve")
        asked = as_dicts([Message(role="user", content=state["question"])])
        if said := state.get("messages"):  # the thread goes on
            return {"messages": [*said, *asked], "calls": [], "turns": 0}
        system = TOOLED if loop.offered else PLAIN
        messages, ids = await opening(context, system, state["question"], spoken=spoken)
        return {"messages": as_dicts(messages), "memory_ids": ids, "calls": [], "turns": 0}

    async def draft(state: AskState) -> AskState:
        write = get_stream_writer()
        try:
            messages, turn = await _turn(context, loop, state, lambda text: write({"node": "draft", "token": text}))
        except TooLong:
            return {"answer": None, "pending": [], "stopped": True, "reason": TOO_LONG}
        turns = state["turns"] + 1
        truncated = turn.completion.finish_reason == "length"
        answer = None if truncated else turn.answer
        return {
            "messages": as_dicts([*messages, *turn.messages]),
            "answer": answer,
            "pending": [call.model_dump() for call in turn.calls],
            "turns": turns,
            "stopped": not loop.offered or truncated or turns >= context.bounds.turns or answer is not None,
            "reason": "ok" if answer is not None else "truncated" if truncated else "no_answer",
        }

    async def act(state: AskState) -> AskState:
        records = await loop.act([ToolCall.model_validate(c) for c in state["pending"]], _records(state))
        return {
            "messages": [*state["messages"], *as_dicts(record.message for record in records)],
            "calls": [*state["calls"], *(record.model_dump(mode="json") for record in records)],
            "pending": [],
        }

    graph = StateGraph(AskState)
    for name, node in (("recall", recall), ("draft", draft), ("act", act)):
        graph.add_node(name, node)
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "draft")
    graph.add_conditional_edges("draft", lambda state: END if state["stopped"] else "act", ["act", END])
    graph.add_edge("act", "draft")
    return graph.compile()


def require_question(given: Any, graph: str) -> None:
    """Refuse what is no question.

    Raises:
        UsageError: it is empty, or no text.
    """
    if not isinstance(given, str) or not given.strip():
        raise UsageError(f'the graph {graph} needs a question, a text: --input \'{{"question": "..."}}\'')


async def opening(
    context: GraphContext, system: str, question: str, *, spoken: bool = False
) -> tuple[list[Message], list[str]]:
    """Return how a question is put to the model, with what the memory has for it, and the ids of that.

    Args:
        context: gives the memory.
        system: the system prompt, before advice is added.
        question: what is asked.
        spoken: whether the model answers in the form of the tool loop, so that examples have to.
    """
    found = await _remembered(context, question, "demonstration", context.demonstrations)
    lessons = await _remembered(context, question, "lesson", context.lessons)
    if spoken:
        found = [d if d.turns else d.model_copy(update={"said": answering(d.answer)}) for d in found]
    first = Message(role="system", content=advised(system, [one.advice for one in lessons]))
    examples = [message for d in found for message in d.messages]
    return [first, *examples, Message(role="user", content=question)], [one.id for one in (*found, *lessons)]


async def _remembered(context: GraphContext, question: str, kind: Kind, k: int) -> list[Any]:
    if context.memory is None or not k:
        return []
    query = Query(question, kinds=(kind,), scopes=context.scopes)
    return (await context.memory.retrieve([query], k, **context.ranking))[0]


async def _turn(context: GraphContext, loop: ToolLoop, state: AskState, heard: OnText) -> tuple[list[Message], Turn]:
    """Ask with as much of the conversation as fits the model; return that much, and what the model said.

    Raises:
        TooLong: nothing more can be left out.
    """
    messages = [Message.model_validate(m) for m in state["messages"]]
    sampling = Sampling(temperature=0.0, max_tokens=context.max_tokens)
    narrow = await loop.narrowed(state["question"])
    while True:
        try:
            if loop.offered:
                return messages, await narrow.turn(messages, _records(state), sampling, heard)
            (completion,) = await context.gateway.complete(messages, sampling, heard)
            return messages, Turn(completion, answer=plain_answer(completion.text))
        except TooLong:
            if (shorter := _shorter(messages, state["question"])) is None:
                raise
            messages = shorter


def _shorter(messages: list[Message], question: str) -> list[Message] | None:
    """Halve the oldest result of a tool that is long; if none is, leave out the first exchange before the question."""
    for at, message in enumerate(messages):
        if message.role == "tool" and len(message.content) > 2 * _SHORTEST:
            half = len(message.content) // 2
            cut = message.model_copy(update={"content": f"{message.content[:half]}... (shortened)"})
            return [*messages[:at], cut, *messages[at + 1 :]]
    asked = [at for at, message in enumerate(messages) if message.role == "user"]
    now = max(at for at in asked if messages[at].content == question)
    later = [at for at in asked if 1 < at <= now]
    return [messages[0], *messages[later[0] :]] if later else None


def _records(state: AskState) -> list[CallRecord]:
    return [CallRecord.model_validate(record) for record in state["calls"]]
