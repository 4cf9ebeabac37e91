"""OpenAI's chat API as it goes over the wire: requests read into our words, answers written back.

What is asked for and cannot be given is refused: an answer that silently lacks it would be worse.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from autotelic.core.dialect import answering, calling, read_turn, turn_schema
from autotelic.core.errors import UsageError
from autotelic.core.faults import faults
from autotelic.core.words import Completion, Message, ToolCall
from autotelic.serving.sampling import Sampling

__all__ = ["ChatRequest", "answer_body", "chunk", "error_body", "event", "pieces", "read_request", "said"]

_PARALLEL = 4


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Part(_Wire):
    type: Literal["text", "refusal", "output_text", "input_text"] = "text"
    text: str = ""


class _Function(_Wire):
    name: str
    arguments: str = "{}"


class _Call(_Wire):
    id: str = ""
    function: _Function


class _ChatMessage(_Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[_Part, ...] | None = None
    tool_calls: tuple[_Call, ...] | None = None
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        if isinstance(self.content, tuple):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Named(_Wire):
    function: _Function


class _JsonSchema(_Wire):
    # Its name on the wire is `schema`, which pydantic's models have taken.
    form: dict[str, Any] = Field(alias="schema")


class _Format(_Wire):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: _JsonSchema | None = None


class _StreamOptions(_Wire):
    include_usage: bool = False


class ChatRequest(_Wire):
    """The body of `POST /v1/chat/completions`, as far as it is understood."""

    model: str = ""
    """Who is to answer."""
    messages: Annotated[tuple[_ChatMessage, ...], Field(min_length=1)]
    """The conversation."""
    n: int = 1
    """Answers."""
    max_tokens: int | None = None
    """Bound on each answer, tokens."""
    max_completion_tokens: int | None = None
    """The same by its newer name."""
    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    """Nucleus."""
    seed: int | None = None
    """Of the sampling."""
    stop: str | tuple[str, ...] | None = None
    """Texts that end an answer."""
    tools: tuple[dict[str, Any], ...] | None = None
    """Tools that the caller can run."""
    tool_choice: Literal["none", "auto", "required"] | _Named | None = None
    """Whether and which of them is to be called."""
    parallel_tool_calls: bool = True
    """Whether several may be called at once."""
    response_format: _Format | None = None
    """Form of the answer."""
    stream: bool = False
    """Whether the answer comes in pieces."""
    stream_options: _StreamOptions | None = None
    """What else comes with the pieces."""
    logprobs: bool | None = None
    """Refused: the texts of single tokens are not kept."""
    frequency_penalty: float | None = None
    """Refused, but for 0."""
    presence_penalty: float | None = None
    """Refused, but for 0."""
    logit_bias: dict[str, float] | None = None
    """Refused, but for none."""

    @field_validator("tools")
    @classmethod
    def _named(cls, tools: tuple[dict[str, Any], ...] | None) -> tuple[dict[str, Any], ...] | None:
        for tool in tools or ():
            if not isinstance(tool.get("function"), dict) or not isinstance(tool["function"].get("name"), str):
                raise ValueError('a tool is {"type": "function", "function": {"name": ..., "parameters": ...}}')
        return tools

    @property
    def counted(self) -> bool:
        """Whether a stream ends with what the answer cost."""
        return self.stream_options is not None and self.stream_options.include_usage

    def conversation(self, *, apart: bool) -> tuple[Message, ...]:
        """Return the messages as a back end takes them.

        Args:
            apart: whether it takes calls of tools apart from the text; else they are the text, in our dialect.
        """
        dialect = bool(self.tools) and self.tool_choice != "none"
        return tuple(_message(one, apart=apart, dialect=dialect) for one in self.messages)

    def sampling(self, default: Sampling, *, apart: bool) -> Sampling:
        """Return how the answer is to be sampled.

        Args:
            default: what the request leaves open.
            apart: see `conversation`.

        Raises:
            UsageError: the request cannot be answered as it is.
        """
        for name in ("logprobs", "frequency_penalty", "presence_penalty", "logit_bias"):
            if getattr(self, name):
                raise UsageError(f"{name} cannot be given here. Leave it out.")
        if self.stream and self.n > 1:
            raise UsageError(f"n is {self.n}; a stream holds one answer. Leave out n or stream.")
        most = self.max_completion_tokens or self.max_tokens
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        tools = () if self.tool_choice == "none" else self.tools or ()
        if tools and not apart and self._form() is not None:
            raise UsageError("response_format cannot be given together with tools. Leave one of them out.")
        if tools and apart and (self.tool_choice not in (None, "auto") or not self.parallel_tool_calls):
            raise UsageError("a remote model chooses its calls itself. Leave out tool_choice and parallel_tool_calls.")
        return Sampling(
            n=self.n,
            max_tokens=default.max_tokens if most is None else most,
            temperature=default.temperature if self.temperature is None else self.temperature,
            top_p=default.top_p if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
            tools=tools,
            schema=self._turn() if tools and not apart else self._form(),
        )

    def _form(self) -> dict[str, Any] | None:
        asked = self.response_format
        if asked is None or asked.type == "text":
            return None
        if asked.type == "json_object":
            return {"type": "object"}
        if asked.json_schema is None:
            raise UsageError("response_format is json_schema without json_schema.schema. Give the schema.")
        return asked.json_schema.form

    def _turn(self) -> dict[str, Any]:
        choice = self.tool_choice
        named = choice.function.name if isinstance(choice, _Named) else None
        functions = [tool["function"] for tool in self.tools or ()]
        schemas = {f["name"]: f.get("parameters") or {} for f in functions if named in (None, f["name"])}
        if named is not None and not schemas:
            raise UsageError(f"tool_choice names {named!r}, which is not among the tools.")
        most = _PARALLEL if self.parallel_tool_calls else 1
        return turn_schema(schemas, most, answer=choice in (None, "auto"))


def read_request(body: bytes) -> ChatRequest:
    """Read the body of a chat request.

    Raises:
        UsageError: it cannot be read; the message says where.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise UsageError(f"the request cannot be read: {faults(error, 'body')}") from None


def said(completion: Completion, *, tools: bool) -> tuple[dict[str, Any], str]:
    """Return a completion as the message of an answer, and why it ended.

    Args:
        completion: what was generated.
        tools: whether it may be a turn in our dialect.
    """
    if completion.calls:
        return _calls(completion.calls), "tool_calls"
    if tools and completion.finish_reason != "length":
        turn = read_turn(completion.text)
        if turn.calls:
            return _calls(turn.calls), "tool_calls"
        return {"role": "assistant", "content": completion.text if turn.answer is None else turn.answer}, "stop"
    return {"role": "assistant", "content": completion.text}, completion.finish_reason


def answer_body(model: str, choices: list[tuple[dict[str, Any], str]], usage: tuple[int, int]) -> dict[str, Any]:
    """Return the body of an answer.

    Args:
        model: the name by which it was asked for.
        choices: message and reason of each answer.
        usage: tokens of the prompt, and of all completions.
    """
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
            for index, (message, reason) in enumerate(choices)
        ],
        "usage": _usage(usage),
    }


def chunk(head: dict[str, Any], delta: dict[str, Any], reason: str | None = None) -> str:
    """Return one piece of a streamed answer, as a server-sent event; `head` holds id, model and the like."""
    piece = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return event({**head, "object": "chat.completion.chunk", "choices": [piece]})


def event(body: dict[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def pieces(answer: dict[str, Any], *, counted: bool = False) -> Iterator[str]:
    """Return a whole answer as a stream of one piece.

    Args:
        answer: see `answer_body`.
        counted: whether it ends with the usage.
    """
    (choice,) = answer["choices"]
    message = choice["message"]
    calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls") or ())]
    head = {name: answer[name] for name in answer if name not in ("choices", "usage")}
    yield chunk(head, {**message, **({"tool_calls": calls} if calls else {})}, choice["finish_reason"])
    if counted:
        yield event({**head, "object": "chat.completion.chunk", "choices": [], "usage": answer["usage"]})
    yield "data: [DONE]\n\n"


def error_body(text: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """Return the body of a refusal."""
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def _message(given: _ChatMessage, *, apart: bool, dialect: bool) -> Message:
    role = "system" if given.role == "developer" else given.role
    calls = tuple(
        ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in given.tool_calls or ()
    )
    if apart:
        return Message(role=role, content=given.text, calls=calls, call_id=given.tool_call_id)
    if calls:
        try:
            return Message(role=role, content=calling(calls))
        except ValueError as error:
            raise UsageError(f"the arguments of a call in messages are no JSON: {error}") from None
    if role == "assistant" and dialect:
        return Message(role=role, content=answering(given.text))
    return Message(role=role, content=given.text)


def _calls(calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    made = tuple(call.model_copy(update={"id": call.id or f"call_{uuid.uuid4().hex[:16]}"}) for call in calls)
    return {**Message(role="assistant", content="", calls=made).openai(), "content": None}


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    prompt, completion = usage
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
