"""An OpenAI-compatible address for each episode, so that an agent written against any SDK can be watched and trained.

The agent is told a base URL and nothing else. Behind it its model calls go through the gateway, to the policy that is
served, and each is recorded as it was sampled: messages, tools, generated text with token ids. What the agent sends
back as an earlier answer is replaced by the text that was generated, so that prompts are what training will see.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autotelic.core.dialect import read_turn, turn_schema
from autotelic.core.errors import AutotelicError, MissingPackage, UsageError
from autotelic.core.words import Completion, Message
from autotelic.serving.backends import Refused
from autotelic.serving.gateway import Gateway
from autotelic.serving.sampling import Sampling

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Endpoint", "Exchange", "Recording", "open_endpoint"]

_MODEL = "policy"
_PARALLEL = 4
_CLOSE = {"connection": "close"}  # an SDK keeps a pool for each address, and every episode has its own


@dataclass(frozen=True)
class Exchange:
    """One model call of an agent."""

    messages: tuple[Message, ...]
    """The prompt, earlier answers as they were generated."""
    tools: tuple[dict[str, Any], ...]
    """Tools that it offered, in OpenAI's form."""
    completion: Completion
    """What was generated."""


@dataclass
class Recording:
    """What one episode's agent asked, in order."""

    sampling: Sampling
    """How its calls are sampled, whatever it asks for: `n` and guides are its own."""
    exchanges: list[Exchange] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    """Generated text by what the agent got for it."""
    failure: AutotelicError | None = None
    """Why the model could not be reached. The agent sees an error too, and may hide it."""


class Endpoint:
    """The server. Made by `open_endpoint`."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self._gateway = gateway
        self._port = port
        self._episodes: dict[str, Recording] = {}

    @asynccontextmanager
    async def episode(self, sampling: Sampling) -> AsyncIterator[tuple[str, Recording]]:
        """Open an address for one episode; gives its base URL and what is recorded there.

        The address cannot be guessed, and is gone at the end.
        """
        name, recording = uuid.uuid4().hex, Recording(sampling)
        self._episodes[name] = recording
        try:
            yield f"http://127.0.0.1:{self._port}/{name}/v1", recording
        finally:
            del self._episodes[name]

    async def chat(self, request: Request) -> Response:
        """Answer `POST .../chat/completions`."""
        from starlette.responses import JSONResponse, StreamingResponse

        recording = self._episodes.get(request.path_params["episode"])
        if recording is None:
            return JSONResponse(_error("there is no such episode"), 404)
        try:
            body = json.loads(await request.body())
            answer = await self._answer(body, recording)
        except (Refused, UsageError) as error:
            return JSONResponse(_error(str(error)), 400)
        except AutotelicError as error:
            recording.failure = error
            return JSONResponse(_error(str(error)), 400)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return JSONResponse(_error(f"the request cannot be read: {type(error).__name__}: {error}"), 400)
        if body.get("stream"):
            return StreamingResponse(_pieces(answer), media_type="text/event-stream", headers=_CLOSE)
        return JSONResponse(answer, headers=_CLOSE)

    async def _answer(self, body: dict[str, Any], recording: Recording) -> dict[str, Any]:
        messages = tuple(_message(one, recording) for one in body["messages"])
        tools = tuple(body.get("tools") or ())
        schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
        if tools and (choice := body.get("tool_choice") or "auto") != "none":
            named = choice["function"]["name"] if isinstance(choice, dict) else None
            functions = [tool["function"] for tool in tools]
            schemas = {f["name"]: f.get("parameters") or {} for f in functions if named in (None, f["name"])}
            most = 1 if body.get("parallel_tool_calls") is False else _PARALLEL
            schema = turn_schema(schemas, most, answer=choice == "auto")
        sampling = replace(recording.sampling, n=1, schema=schema, tools=tools)
        (completion,) = await self._gateway.complete(messages, sampling)
        recording.exchanges.append(Exchange(messages, tools, completion))
        message, reason = _openai(completion, bool(tools))
        recording.said[_shown(message)] = completion.text
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": _MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
                "total_tokens": completion.prompt_tokens + completion.completion_tokens,
            },
        }


@asynccontextmanager
async def open_endpoint(gateway: Gateway) -> AsyncIterator[Endpoint]:
    """Serve on a free port of the loopback until the end.

    Raises:
        MissingPackage: starlette or uvicorn is not installed.
    """
    try:
        import uvicorn
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ModuleNotFoundError as error:
        raise MissingPackage(str(error.name), "agents") from None
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(256)  # who connects before the server is up waits for it
    endpoint = Endpoint(gateway, listening.getsockname()[1])
    app = Starlette(routes=[Route("/{episode}/v1/chat/completions", endpoint.chat, methods=["POST"])])
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([listening]))  # `serve` would take over the signals
    try:
        yield endpoint
    finally:
        server.should_exit = True
        await serving
        listening.close()


def _message(given: dict[str, Any], recording: Recording) -> Message:
    """Read one message; an earlier answer becomes again what was generated."""
    role = {"developer": "system"}.get(given["role"], given["role"])
    content = given.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    if role == "assistant":
        return Message(role="assistant", content=recording.said.get(_shown(given), content))
    return Message(role=role, content=content)


def _shown(message: dict[str, Any]) -> str:
    """What tells an answer from another as the agent sees it."""
    ids = [call["id"] for call in message.get("tool_calls") or ()]
    return json.dumps(ids or (message.get("content") or ""))


def _openai(completion: Completion, tools: bool) -> tuple[dict[str, Any], str]:
    if tools and completion.finish_reason != "length":
        turn = read_turn(completion.text)
        if turn.calls:
            made = tuple(call.model_copy(update={"id": f"call_{uuid.uuid4().hex[:16]}"}) for call in turn.calls)
            return Message(role="assistant", content="", calls=made).openai(), "tool_calls"
        return {"role": "assistant", "content": completion.text if turn.answer is None else turn.answer}, "stop"
    return {"role": "assistant", "content": completion.text}, completion.finish_reason


async def _pieces(answer: dict[str, Any]) -> AsyncIterator[str]:
    """An answer as the stream of one piece, for agents that ask for one."""
    (choice,) = answer["choices"]
    calls = [{"index": index, **call} for index, call in enumerate(choice["message"].get("tool_calls") or ())]
    delta = {**choice["message"], **({"tool_calls": calls} if calls else {})}
    head = {**answer, "object": "chat.completion.chunk"}
    piece = {"index": 0, "delta": delta, "finish_reason": choice["finish_reason"]}
    yield f"data: {json.dumps({**head, 'choices': [piece]})}\n\n"
    yield "data: [DONE]\n\n"


def _error(text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": "invalid_request_error"}}
