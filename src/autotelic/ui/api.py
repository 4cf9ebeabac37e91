"""OpenAI's chat API over HTTP: `/v1/chat/completions`, `/v1/models`, and beside it `/health` and `/metrics`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from autotelic.core.errors import AutotelicError, ServingError, UsageError
from autotelic.serving import Refused
from autotelic.serving.openai_wire import ChatRequest, answer_body, chunk, error_body, event, pieces, read_request
from autotelic.ui.answering import Answerer, NoSuchModel, Reply
from autotelic.ui.guard import Bounds, Guard
from autotelic.ui.metrics import Metrics, Observed

__all__ = ["make_app"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Api:
    def __init__(self, answerer: Answerer, metrics: Metrics) -> None:
        self._answerer = answerer
        self._metrics = metrics

    async def chat(self, request: Request) -> Response:
        with ExitStack() as observing:
            seen = observing.enter_context(self._metrics.request())
            try:
                asked = read_request(await request.body())
                seen.model = _label(self._answerer, asked.model)
                if asked.stream:
                    return await self._streamed(request, asked, seen, observing)
                reply = await _unless_gone(request, self._answerer.answer(asked))
                seen.policy, seen.usage = reply.policy, _usage(reply)
                return JSONResponse(_body(asked, reply))
            except Exception as error:
                seen.status, body = _refusal(error)
                return JSONResponse(body, seen.status)

    async def _streamed(self, request: Request, asked: ChatRequest, seen: Observed, observing: ExitStack) -> Response:
        """Answer piece by piece; what fails before the first piece is answered with its status."""
        said: asyncio.Queue[str | None] = asyncio.Queue()

        def heard(text: str) -> None:
            seen.heard()
            said.put_nowait(text)

        async def work() -> Reply:
            try:
                return await self._answerer.answer(asked, heard)
            finally:
                said.put_nowait(None)

        working = asyncio.create_task(work())
        try:
            first = await _unless_gone(request, said.get())
            if first is None:
                await working  # raises if it failed
        except BaseException:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            raise

        observed = observing.pop_all()  # until the last piece

        async def stream() -> AsyncIterator[str]:
            with observed:
                try:
                    async for piece in _stream(asked, seen, working, first, said):
                        yield piece
                finally:
                    working.cancel()
                    await asyncio.gather(working, return_exceptions=True)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-cache"})

    async def models(self, _: Request) -> Response:
        found = [_model(name) for name in self._answerer.names()]
        return JSONResponse({"object": "list", "data": found})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            self._answerer.find(name)
        except UsageError as error:
            return JSONResponse(_refusal(error)[1], 404)
        return JSONResponse(_model(name))

    async def health(self, _: Request) -> Response:
        if not self._answerer.well:
            return JSONResponse({"status": "no policy is served"}, 503)
        return JSONResponse({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")


def make_app(answerer: Answerer, metrics: Metrics, bounds: Bounds) -> Guard:
    """Return the application, guarded."""
    api = _Api(answerer, metrics)
    routes = [
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/health", api.health),
        Route("/metrics", api.metrics),
    ]
    return Guard(Starlette(routes=routes), bounds)


async def _stream(
    asked: ChatRequest,
    seen: Observed,
    working: asyncio.Task[Reply],
    first: str | None,
    said: asyncio.Queue[str | None],
) -> AsyncIterator[str]:
    whole = answer_body(asked.model, [], (0, 0))
    head = {name: whole[name] for name in ("id", "created", "model")}
    if first is not None:
        yield chunk(head, {"role": "assistant", "content": first})
        while (text := await said.get()) is not None:
            yield chunk(head, {"content": text})
    try:
        reply = await working
    except Exception as error:  # the status is long sent: the stream ends with what happened
        seen.status, body = _refusal(error)
        yield event(body)
        return
    seen.policy, seen.usage = reply.policy, _usage(reply)
    body = {**_body(asked, reply), **head}
    if first is None:
        for piece in pieces(body, counted=asked.counted):
            yield piece
        return
    head |= {name: body[name] for name in ("system_fingerprint", "autotelic")}
    yield chunk(head, {}, body["choices"][0]["finish_reason"])
    if asked.counted:
        yield event({**head, "object": "chat.completion.chunk", "choices": [], "usage": body["usage"]})
    yield "data: [DONE]\n\n"


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, T]) -> T:
    """Wait for an answer, or give it up when nobody listens any more."""
    working, gone = asyncio.create_task(answering), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ServingError("the caller has gone")
        return await working
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _body(asked: ChatRequest, reply: Reply) -> dict[str, Any]:
    body = answer_body(asked.model, reply.choices, _usage(reply))
    body["usage"]["prompt_tokens_details"] = {"cached_tokens": reply.price.cached_tokens}
    # OpenAI's field for what stood behind an answer.
    body["system_fingerprint"] = None if reply.policy is None else f"policy-{reply.policy}"
    spent = {"calls": reply.price.calls, "seconds": round(reply.price.seconds, 3), "stopped": reply.stopped}
    return {**body, "autotelic": {**spent, "drafts": reply.drafts}}


def _usage(reply: Reply) -> tuple[int, int]:
    return reply.price.prompt_tokens, reply.price.completion_tokens


def _refusal(error: Exception) -> tuple[int, dict[str, Any]]:
    if isinstance(error, NoSuchModel):
        body = error_body(str(error))
        body["error"]["code"] = "model_not_found"
        return 404, body
    if isinstance(error, UsageError | Refused):
        return 400, error_body(str(error))
    if isinstance(error, AutotelicError):
        return 503, error_body(str(error), "service_unavailable")
    _log.error("a request failed", exc_info=error)
    return 500, error_body("something went wrong here; the server's log says what.", "server_error")


def _label(answerer: Answerer, model: str) -> str:
    """The name under which a request is counted: one of a few, whatever callers write."""
    named = answerer.find(model)
    if named.graph is not None:
        return f"graph:{named.graph}"
    who = "champion" if named.policy is None else f"policy-{named.policy}"
    return who if named.strategy is None else f"{who}:{named.strategy.partition('(')[0]}"


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "autotelic"}
