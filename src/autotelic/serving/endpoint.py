"""An OpenAI-compatible address for each episode, so that an agent written against any SDK can be watched and trained.

The agent is told a base URL and nothing else. Behind it its model calls go through the gateway, to the policy that is
served, and each is recorded as it was sampled: messages, tools, generated text with token ids. What the agent sends
back as an earlier answer is replaced by the text that was generated, so that prompts are what training will see.
"""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autotelic.core.errors import AutotelicError, MissingPackage, UsageError
from autotelic.core.words import Completion, Message
from autotelic.serving.backends import Refused
from autotelic.serving.gateway import Gateway
from autotelic.serving.openai_wire import ChatRequest, answer_body, error_body, pieces, read_request, said
from autotelic.serving.sampling import Sampling

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Endpoint", "Exchange", "Recording", "open_endpoint"]

_MODEL = "policy"
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
            return JSONResponse(error_body("there is no such episode"), 404)
        try:
            asked = read_request(await request.body())
            answer = await self._answer(asked, recording)
        except (Refused, UsageError) as error:
            return JSONResponse(error_body(str(error)), 400)
        except AutotelicError as error:
            recording.failure = error
            return JSONResponse(error_body(str(error)), 400)
        if asked.stream:
            pieced = pieces(answer, counted=asked.counted)
            return StreamingResponse(pieced, media_type="text/event-stream", headers=_CLOSE)
        return JSONResponse(answer, headers=_CLOSE)

    async def _answer(self, asked: ChatRequest, recording: Recording) -> dict[str, Any]:
        messages = _as_generated(asked, recording)
        wanted = asked.sampling(recording.sampling, apart=False)
        sampling = replace(recording.sampling, n=1, schema=wanted.schema, tools=wanted.tools)
        (completion,) = await self._gateway.complete(messages, sampling)
        recording.exchanges.append(Exchange(messages, wanted.tools, completion))
        message, reason = said(completion, tools=bool(wanted.tools))
        ids = [call["id"] for call in message.get("tool_calls") or ()]
        recording.said[_shown(ids, message["content"] or "")] = completion.text
        return answer_body(_MODEL, [(message, reason)], (completion.prompt_tokens, completion.completion_tokens))


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


def _as_generated(asked: ChatRequest, recording: Recording) -> tuple[Message, ...]:
    """Return the conversation with earlier answers as they were generated, and what it began with as it came."""
    found = []
    for one, read in zip(asked.messages, asked.conversation(apart=False), strict=True):
        if one.role == "assistant":
            generated = recording.said.get(_shown([call.id for call in one.tool_calls or ()], one.text))
            if generated is not None or not one.tool_calls:
                read = Message(role="assistant", content=one.text if generated is None else generated)
        found.append(read)
    return tuple(found)


def _shown(ids: Sequence[str], text: str) -> str:
    """What tells an answer from another as the agent sees it."""
    return json.dumps([*ids] or text)
