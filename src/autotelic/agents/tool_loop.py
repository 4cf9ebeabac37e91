"""The tool loop: the model calls tools and reads what came of it until it answers, or a bound is reached.

Two dialects, one loop. On our own server a turn is JSON, `{"calls":[{"tool":...,"arguments":{...}}]}` or
`{"answer":...}`, held to that by guided decoding, so that a small model cannot break the form; the chat template tells
the model of the tools. A provider's model gets the tools by its own interface and gives calls apart from the text.
Whatever a call came to, also when it failed or was refused, is the next message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field

from autotelic.core.dialect import read_turn, turn_schema
from autotelic.core.words import Completion, Frozen, Message, ToolCall
from autotelic.serving import TOO_LONG, Gateway, OnText, Refused, Sampling, TooLong
from autotelic.tools import Tool, Toolbox, ToolResult

__all__ = ["Bounds", "CallRecord", "Conversation", "Picker", "ToolLoop", "Turn"]

Picker = Callable[[str, Sequence[Tool]], Awaitable[Sequence[Tool]]]
"""Chooses by the question which of many tools a task is offered."""

_FORM = 'that was neither a call nor an answer. Reply {"calls":[{"tool":NAME,"arguments":{...}}]} or {"answer":TEXT}'


class Bounds(Frozen):
    """How far one answer may go."""

    calls: int = Field(default=8, ge=0)
    """Most calls in one answer; when they are spent the model can only answer."""
    parallel: int = Field(default=4, ge=1)
    """Most calls in one turn; they run side by side."""
    turns: int = Field(default=12, ge=1)
    """Most turns of the model."""
    repeats: int = Field(default=2, ge=1)
    """How often the very same call is run; asked for once more, it is answered from the last result."""
    call_first: bool = False
    """Whether the first turn has to be a call. Small models otherwise answer at once, from habit."""


class CallRecord(Frozen):
    """One call and what it came to."""

    call: ToolCall
    """What the model asked for."""
    result: ToolResult
    """What came of it."""
    seconds: float
    """Time it took."""

    @property
    def message(self) -> Message:
        """What the model is told."""
        return Message(role="tool", content=self.result.content, call_id=self.call.id)


@dataclass(frozen=True)
class Turn:
    """One turn of the model."""

    completion: Completion
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    fault: str = ""
    """What is wrong with its form, if it is neither calls nor an answer."""

    @property
    def messages(self) -> list[Message]:
        """The turn as the conversation goes on with it, exactly as it was generated, and what is wrong with it."""
        said = Message(role="assistant", content=self.completion.text, calls=self.completion.calls)
        return [said, *([Message(role="user", content=self.fault)] if self.fault else [])]


@dataclass
class Conversation:
    """A whole answer: every message from the prompt on, every turn, every call."""

    messages: list[Message]
    turns: list[Turn] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    answer: str | None = None
    reason: str = "no_answer"
    """`ok`; `truncated`: a turn was cut off by its token limit; `no_answer`: the turns were spent; `too_long`: the
    conversation outgrew the model's context."""


class ToolLoop:
    """Answers with tools.

    Args:
        gateway: where model calls go.
        toolbox: the tools; only what it allows is offered.
        bounds: how far one answer may go.
        picker: offers a task a few of many tools; without it all that are allowed.
    """

    def __init__(
        self, gateway: Gateway, toolbox: Toolbox, bounds: Bounds | None = None, picker: Picker | None = None
    ) -> None:
        self._gateway = gateway
        self._toolbox = toolbox
        self._picker = picker
        self.bounds = bounds or Bounds()
        self._offer(toolbox.allowed)

    def _offer(self, tools: Sequence[Tool]) -> None:
        self._schemas: dict[str, dict[str, Any]] = {tool.name: tool.parameters for tool in tools}
        self.offered = tuple(tool.openai() for tool in tools)
        """The tools as the chat template takes them; the same in every turn, so that prompts share their beginning."""

    async def narrowed(self, question: str) -> ToolLoop:
        """Return the loop for one question, which offers only what the picker takes for it."""
        if self._picker is None:
            return self
        narrow = copy(self)
        narrow._offer(await self._picker(question, self._toolbox.allowed))
        return narrow

    async def answer(self, messages: Sequence[Message], sampling: Sampling) -> Conversation:
        """Go on from `messages` to an answer. `sampling.n` must be 1: each conversation goes its own way."""
        talk = Conversation(list(messages))
        while len(talk.turns) < self.bounds.turns:
            try:
                turn = await self.turn(talk.messages, talk.calls, sampling)
            except TooLong:
                talk.reason = TOO_LONG
                talk.turns = talk.turns or [Turn(Completion(text="", finish_reason=TOO_LONG))]
                break
            talk.turns.append(turn)
            talk.messages += turn.messages
            if turn.completion.finish_reason == "length":
                talk.reason = "truncated"
                break
            if turn.answer is not None:
                talk.answer, talk.reason = turn.answer, "ok"
                break
            records = await self.act(turn.calls, talk.calls)
            talk.calls += records
            talk.messages += [record.message for record in records]
        return talk

    async def turn(
        self,
        messages: Sequence[Message],
        records: Sequence[CallRecord],
        sampling: Sampling,
        on_text: OnText | None = None,
    ) -> Turn:
        """Ask the model for its next turn, `records` being the calls made so far; `on_text` hears it being said."""
        if self._gateway.backend.calls_apart:
            # Offered to the end: providers refuse a conversation with calls in it and no tools beside it.
            (completion,) = await self._gateway.complete(messages, replace(sampling, tools=self.offered), on_text)
            return Turn(completion, completion.calls, None if completion.calls else completion.text)
        schemas = self._schemas
        try:
            completion = await self._guided(schemas, messages, len(records), sampling, on_text)
        except TooLong:
            raise
        except Refused:
            # Servers do not know every schema. Without it the arguments are checked all the same, when they are used.
            self._schemas = {name: {"type": "object"} for name in schemas}
            if self._schemas == schemas:
                raise
            completion = await self._guided(self._schemas, messages, len(records), sampling, on_text)
        said = read_turn(completion.text)
        return Turn(completion, said.calls, said.answer, "" if said.calls or said.answer is not None else _FORM)

    async def _guided(
        self,
        schemas: dict[str, dict[str, Any]],
        messages: Sequence[Message],
        made: int,
        sampling: Sampling,
        on_text: OnText | None,
    ) -> Completion:
        left = self.bounds.calls - made
        must_call = self.bounds.call_first and not made and left > 0
        schema = turn_schema(schemas, min(left, self.bounds.parallel), answer=not must_call)
        guided = replace(sampling, schema=schema, tools=self.offered)
        (completion,) = await self._gateway.complete(messages, guided, on_text)
        return completion

    async def act(self, calls: Sequence[ToolCall], records: Sequence[CallRecord]) -> list[CallRecord]:
        """Run a turn's calls side by side, within the bounds; `records` are the calls made before."""
        left = min(self.bounds.calls - len(records), self.bounds.parallel)
        beside = [sum(_same(one, call) for one in calls[:index]) for index, call in enumerate(calls)]
        return await asyncio.gather(
            *(self._run(call, index < left, records, beside[index]) for index, call in enumerate(calls))
        )

    async def _run(self, call: ToolCall, within: bool, records: Sequence[CallRecord], beside: int) -> CallRecord:
        """Run a call; `beside` is how many of the very same stand before it in its turn."""
        began = time.perf_counter()
        same = [r.result for r in records if r.result.reason != "refused" and _same(r.call, call)]
        if not within:
            result = ToolResult(ok=False, content=f"{call.name} was not called: too many calls", reason="refused")
        elif len(same) + beside >= self.bounds.repeats:
            gave = f"was called so before, and gave: {same[-1].content}" if same else "is called so already"
            text = f"{call.name} {gave}"
            result = ToolResult(ok=False, content=text, reason="refused")
        else:
            result = await self._toolbox.call(call.name, call.arguments)
        return CallRecord(call=call, result=result, seconds=time.perf_counter() - began)


def _same(one: ToolCall, other: ToolCall) -> bool:
    return (one.name, one.arguments) == (other.name, other.arguments)
