"""The graph behind `autotelic chat`: an answer that agents draft, criticise and revise, and that a person refines.

One invocation is one *act* of the person: to say something, to say what is wrong, to edit, accept, reject, rate, retry
or compare. What the agents do about it are nodes, so that a thread which was cut off goes on at the node it had
reached, and every act leaves a checkpoint to undo or to fork from. A call of a tool that nobody has allowed waits for
the person, in a node of its own: what was answered is not asked again.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from autotelic.agents import CallRecord, Critic, ToolLoop
from autotelic.core.dialect import answering
from autotelic.core.errors import UsageError
from autotelic.core.seeds import derive
from autotelic.core.words import Frozen, Message, ToolCall
from autotelic.graphs.acts import TALK, Said, Say, Turn, Who, acted, prompt_of, read_act
from autotelic.graphs.ask import GraphContext, opening
from autotelic.graphs.refine import open_work
from autotelic.graphs.strategy_solver import reached
from autotelic.refinement import Meter, Price, build_strategy
from autotelic.serving import TOO_LONG, Sampling, TooLong
from autotelic.tools import ToolResult

__all__ = ["ChatContext", "ChatState", "Speaking", "build_chat", "turns_of"]

_MEND = "That is not right yet: {fault}\nReply with the mended answer only."


class _Work(Frozen):
    """A draft on its way through the tools."""

    messages: tuple[Message, ...]
    """What the model is given next."""
    memory_ids: tuple[str, ...] = ()
    """What the memory contributed."""
    calls: tuple[CallRecord, ...] = ()
    """Calls that were made."""
    pending: tuple[ToolCall, ...] = ()
    """Calls that it has asked for."""
    allowed: bool = True
    """Whether those of them that a person had to allow may be made."""
    turns: int = 0
    """Turns of the model."""
    price: Price = Price()
    """What they cost."""


class ChatState(TypedDict, total=False):
    """`act` goes in; `turns` is the conversation. Plain data, see `Act` and `Turn`; `work` is between the nodes.

    `heard` is new with each act, so that what was decided in an earlier one is not taken for an answer in this.
    """

    act: dict[str, Any]
    heard: str
    turns: list[dict[str, Any]]
    work: dict[str, Any] | None


Speaking = Callable[[int | None], AbstractAsyncContextManager[int | None]]


def _ask(_: str, question: dict[str, Any]) -> bool:
    return interrupt(question) is True


@asynccontextmanager
async def _whoever(_: int | None) -> AsyncIterator[int | None]:
    yield None


@dataclass(frozen=True)
class ChatContext:
    """What the chat is built from."""

    answers: GraphContext
    """The model, memory and tools."""
    speaking: Speaking = _whoever
    """Holds a policy in the server while it answers; gives its number."""
    rounds: int = 2
    """Most revisions that the critic may bring about; 0 asks no critic."""
    accept: float = 0.75
    """Confidence of the critic from which a draft stands."""
    asks: frozenset[str] = frozenset()
    """Tools each call of which a person has to allow."""
    decide: Callable[[str, dict[str, Any]], bool] = _ask
    """Gives a person's answer to a question about a subject; interrupts the graph until there is one."""


def build_chat(context: ChatContext) -> Any:
    """Compile the graph; give it an `act`, read `turns`."""
    chat = _Chat(context)
    graph = StateGraph(ChatState)
    for name, node in (
        ("hear", chat.hear),
        ("draft", chat.draft),
        ("permit", chat.permit),
        ("call", chat.call),
        ("criticise", chat.criticise),
        ("compare", chat.compare),
        ("settle", chat.settle),
    ):
        graph.add_node(name, node)
    graph.add_edge(START, "hear")
    graph.add_conditional_edges("hear", chat.after_hearing, ["draft", "compare", END])
    graph.add_conditional_edges("draft", chat.after_draft, ["permit", "criticise", "settle"])
    graph.add_edge("permit", "call")
    graph.add_edge("call", "draft")
    graph.add_conditional_edges("criticise", chat.after_critique, ["draft", "settle"])
    graph.add_edge("settle", END)
    graph.add_edge("compare", END)
    return graph.compile()


class _Chat:
    def __init__(self, context: ChatContext) -> None:
        self._context = context
        answers = context.answers
        self._loop = ToolLoop(answers.gateway, answers.toolbox, answers.bounds, answers.picker)
        self._spoken = bool(self._loop.offered) and not answers.gateway.backend.calls_apart

    async def hear(self, state: ChatState) -> ChatState:
        turns = turns_of(state)
        act = read_act(state.get("act"))
        if isinstance(act, Say):
            turn = Turn(id=_fresh(), question=act.text, files=act.files, who=act.who)
            return {**_with([*turns, turn]), "work": None, "heard": _fresh()}
        if not turns:
            raise UsageError(f"there is nothing to {act.kind}: nothing was said yet.")
        return {**_with([*turns[:-1], acted(turns[-1], act)]), "work": None, "heard": _fresh()}

    def after_hearing(self, state: ChatState) -> str:
        kind = read_act(state.get("act")).kind
        return "draft" if kind in ("say", "wrong", "retry") else "compare" if kind == "compare" else END

    async def draft(self, state: ChatState) -> ChatState:
        turns = turns_of(state)
        turn = turns[-1]
        work = _work(state) or await self._begun(turns)
        if self._loop.offered and turn.who.strategy is None:
            async with self._context.speaking(turn.who.policy) as policy:
                work, text = await self._turn(work, turn.question)
            if text is None:
                return {"work": work.model_dump(mode="json")}
            drafted = Said(text=text, policy=policy, calls=work.calls, price=work.price)
        else:
            drafted = await self._speak(turn.who, list(work.messages), turn.question, len(turn.drafts), node="draft")
        turn = turn.model_copy(update={"drafts": (*turn.drafts, drafted), "memory_ids": work.memory_ids})
        return {**_with([*turns[:-1], turn]), "work": None}

    def after_draft(self, state: ChatState) -> str:
        if state.get("work") is not None:
            return "permit"
        turn = turns_of(state)[-1]
        watched = self._context.rounds and turn.who.strategy is None and not turn.complaints
        return "criticise" if watched else "settle"

    def permit(self, state: ChatState) -> ChatState:
        work = _work(state)
        assert work is not None, "there are calls to be made"
        asked = [call for call in work.pending if call.name in self._context.asks]
        if not asked:
            return {}
        question = {
            "ask": f"call {', '.join(dict.fromkeys(call.name for call in asked))}?",
            "reasons": [f"{call.name} {call.arguments}" for call in asked],
        }
        heard = [state["heard"]] if "heard" in state else []  # an act that waits since before there was one
        subject = "/".join(["chat", turns_of(state)[-1].id, *heard, str(len(work.calls))])
        allowed = self._context.decide(subject, question)
        return {"work": work.model_copy(update={"allowed": allowed}).model_dump(mode="json")}

    async def call(self, state: ChatState) -> ChatState:
        work = _work(state)
        assert work is not None, "there are calls to be made"
        barred = frozenset() if work.allowed else self._context.asks
        refused = [_refusal(call) for call in work.pending if call.name in barred]
        made = await self._loop.act([call for call in work.pending if call.name not in barred], work.calls)
        records = sorted([*made, *refused], key=lambda record: work.pending.index(record.call))
        messages = (*work.messages, *(record.message for record in records))
        fresh = {"messages": messages, "calls": (*work.calls, *records), "pending": (), "allowed": True}
        return {"work": work.model_copy(update=fresh).model_dump(mode="json")}

    async def criticise(self, state: ChatState) -> ChatState:
        turns = turns_of(state)
        turn = turns[-1]
        *earlier, last = turn.drafts
        async with self._context.speaking(turn.who.policy):
            critic = Critic(self._context.answers.gateway)
            seed = derive(0, turn.id, "critic", len(earlier))
            found = await critic.judge(turn.id, turn.asked(), last.text, seed=seed)
        judged = last.model_copy(update={"critique": found})
        return _with([*turns[:-1], turn.model_copy(update={"drafts": (*earlier, judged)})])

    def after_critique(self, state: ChatState) -> str:
        drafts = turns_of(state)[-1].drafts
        found = drafts[-1].critique
        content = found is None or found.verdict is None or (found.confidence or 0.0) >= self._context.accept
        return "settle" if content or len(drafts) > self._context.rounds else "draft"

    async def settle(self, state: ChatState) -> ChatState:
        turns = turns_of(state)
        turn = turns[-1]
        best = turn.drafts[-1] if turn.complaints else max(turn.drafts, key=_liked)
        return _with([*turns[:-1], turn.model_copy(update={"answer": best.text})])

    async def compare(self, state: ChatState) -> ChatState:
        turns = turns_of(state)
        turn, act = turns[-1], read_act(state.get("act"))
        messages, _ = await self._prompt(turns, spoken=False)
        found = [await self._speak(who, messages, turn.question, 0, node="compare", aloud=False) for who in act.who]
        Random(derive(0, turn.id, "order")).shuffle(found)  # who is who is told by the choice
        return _with([*turns[:-1], turn.model_copy(update={"pair": tuple(found), "chosen": None})])

    async def _begun(self, turns: list[Turn]) -> _Work:
        """The beginning of a draft: what was said, and what is to be mended."""
        turn = turns[-1]
        spoken = self._spoken and turn.who.strategy is None
        messages, ids = await self._prompt(turns, spoken=spoken)
        fault = _fault(turn)
        if fault is not None:
            last = turn.answer if turn.complaints and turn.answer is not None else turn.drafts[-1].text
            said = Message(role="assistant", content=answering(last) if spoken else last)
            messages = [*messages, said, Message(role="user", content=_MEND.format(fault=fault))]
        return _Work(messages=tuple(messages), memory_ids=ids)

    async def _turn(self, work: _Work, question: str) -> tuple[_Work, str | None]:
        """Have the model call tools or answer; return the work as it stands then, and the answer if there is one."""
        answers, write = self._context.answers, get_stream_writer()

        def heard(text: str) -> None:
            if not self._spoken:  # else what is heard is JSON
                write({"node": "draft", "token": text})

        sampling = Sampling(temperature=0.0, max_tokens=answers.max_tokens)
        meter = Meter(answers.gateway)
        loop = await ToolLoop(meter, answers.toolbox, answers.bounds, answers.picker).narrowed(question)
        turn = await loop.turn(work.messages, work.calls, sampling, heard)
        count = work.turns + 1
        cut = turn.completion.finish_reason == "length" or count >= answers.bounds.turns
        price = work.price + meter.tally.price
        fresh = {"messages": (*work.messages, *turn.messages), "pending": turn.calls, "turns": count, "price": price}
        work = work.model_copy(update=fresh)
        if turn.answer is None and not cut:
            return work, None
        text = (turn.completion.text if turn.answer is None else turn.answer).strip()
        if self._spoken:
            write({"node": "draft", "token": text})
        return work, text

    async def _prompt(self, turns: list[Turn], *, spoken: bool) -> tuple[list[Message], tuple[str, ...]]:
        first, ids = await opening(self._context.answers, TALK, turns[-1].question, spoken=spoken)
        *head, _ = first  # its last message is the bare question
        said = prompt_of(turns)[1:]
        if spoken:  # in the form that it is to answer in
            said = [
                one.model_copy(update={"content": answering(one.content)}) if one.role == "assistant" else one
                for one in said
            ]
        return [*head, *said], tuple(ids)

    async def _speak(
        self, who: Who, messages: list[Message], question: str, index: int, *, node: str, aloud: bool = True
    ) -> Said:
        """Have somebody answer; what was said first is left out until the rest fits the model."""
        async with self._context.speaking(who.policy) as policy:
            while True:
                try:
                    found = await self._found(who, messages, question, index, node, aloud)
                    return found.model_copy(update={"policy": policy})
                except TooLong:
                    if len(messages) < 4:
                        raise
                    messages = [messages[0], *messages[3:]]

    async def _found(
        self, who: Who, messages: list[Message], question: str, index: int, node: str, aloud: bool
    ) -> Said:
        answers, write = self._context.answers, get_stream_writer()

        def heard(text: str) -> None:
            if aloud:
                write({"node": node, "token": text})

        if who.strategy is not None:
            # A strategy asks nobody between its calls: tools that a person has to allow are not for it.
            answers = replace(answers, toolbox=answers.toolbox.without(self._context.asks))
            work = replace(open_work(answers, messages, question), seed=derive(0, question, index))
            found = await reached(build_strategy(who.strategy), work, partly=True)
            if found.text is None and found.stopped == TOO_LONG:
                raise TooLong("the conversation does not fit the model")
            text = found.text if found.text is not None else found.draft.text
            heard(text)
            drafts = tuple(one.model_copy(update={"of": (), "first": None}) for one in found.draft.of)
            return Said(text=text, price=found.price, stopped=found.stopped, of=drafts)
        meter = Meter(answers.gateway)
        sampling = Sampling(temperature=0.0, max_tokens=answers.max_tokens)
        [said] = await meter.complete(messages, sampling, heard)
        return Said(text=said.text.strip(), price=meter.tally.price)


def turns_of(state: ChatState) -> list[Turn]:
    """Return the conversation."""
    return [Turn.model_validate(turn) for turn in state.get("turns") or ()]


def _fresh() -> str:
    return uuid.uuid4().hex[:12]


def _fault(turn: Turn) -> str | None:
    """Return what the next draft is to mend: the person's word, else the critic's."""
    if turn.complaints:
        return turn.complaints[-1]
    found = turn.drafts[-1].critique if turn.drafts else None
    return None if found is None else " ".join(part for part in (found.fault, found.advice) if part) or "look again"


def _work(state: ChatState) -> _Work | None:
    found = state.get("work")
    return None if found is None else _Work.model_validate(found)


def _refusal(call: ToolCall) -> CallRecord:
    text = f"{call.name} was not called: a person refused it"
    return CallRecord(call=call, result=ToolResult(ok=False, content=text, reason="refused"), seconds=0.0)


def _liked(said: Said) -> float:
    """How sure the critic is of a draft; of equals the first is taken."""
    return -1.0 if said.critique is None or said.critique.confidence is None else said.critique.confidence


def _with(turns: list[Turn]) -> ChatState:
    return {"turns": [turn.model_dump(mode="json") for turn in turns]}
