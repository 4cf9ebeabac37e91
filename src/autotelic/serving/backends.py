"""Where the gateway's calls end: the local server, any provider that LiteLLM knows, or a script for tests.

A back end makes one attempt at one request. It says `Unavailable` where another attempt may succeed, and raises
`ServingError` or `UsageError` where it cannot; retrying, limiting and counting are the gateway's.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

import httpx

from autotelic.core.errors import ServingError, UsageError
from autotelic.core.words import Completion, Message
from autotelic.serving._answers import Pieces, completions
from autotelic.serving.sampling import Sampling, chat_request, guide

__all__ = [
    "Backend",
    "LiteLLMBackend",
    "LocalBackend",
    "OnText",
    "Refused",
    "ScriptedBackend",
    "Streaming",
    "TooLong",
    "Unavailable",
    "require_provider",
]

T = TypeVar("T")
_CHAT = "/v1/chat/completions"
_TOO_LONG = "maximum context length"
"""What vLLM says, whether the prompt alone is too long or leaves too little room for `max_tokens`."""

# vLLM closes an idle connection after five seconds; we give it up before, so as not to send into its closing.
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=3.0)


class Unavailable(Exception):
    """This attempt got no answer, another one may: connection lost, time-out, overload, an error of the server's."""


class Refused(ServingError):
    """The server will not answer this request, however often it is asked."""


class TooLong(Refused):
    """The prompt leaves no room for an answer in the model's context."""


class Backend(Protocol):
    """One attempt at one request."""

    calls_apart: bool
    """Whether a model's calls of tools come apart from its text. If not, they are the text."""

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        """Return up to `sampling.n` completions, at least one, marked with `policy`.

        Raises:
            Unavailable: another attempt may succeed.
            ServingError: the request was refused.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


OnText = Callable[[str], None]
"""Called with every piece of an answer's text, as it is generated."""


@runtime_checkable
class Streaming(Protocol):
    """A back end that can give an answer piece by piece."""

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, policy: int | None, on_text: OnText
    ) -> Completion:
        """As `Backend.complete`, for one answer; `on_text` gets its pieces."""
        ...


class LocalBackend:
    """Our own vLLM server, spoken to over kept-alive connections.

    Args:
        url: where it listens, without a path.
        headers: what every request needs.
        model: name under which it offers the policy.
        timeout: seconds after which a request counts as lost.
        controls: texts of the model's control tokens, see `Completion.alternatives`.
    """

    calls_apart = False

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        model: str,
        *,
        timeout: float = 600.0,
        controls: Collection[str] = (),
    ) -> None:
        self._model = model
        self._controls = frozenset(controls)
        self._url = httpx.URL(url)
        self._headers = [*headers.items(), ("Content-Type", "application/json"), ("Host", self._url.netloc.decode())]
        self._timeout = httpx.Timeout(timeout, connect=10.0).as_dict()
        self._idle: list[httpx.AsyncHTTPTransport] = []

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        """See `Backend.complete`."""
        return completions(await self.post(_CHAT, self._body(messages, sampling)), policy, self._controls)

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, policy: int | None, on_text: OnText
    ) -> Completion:
        """See `Streaming.stream`."""
        pieces = Pieces(on_text)

        async def read(response: httpx.Response) -> None:
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    pieces.take(json.loads(line.removeprefix("data: ")))

        asked = {"stream": True, "stream_options": {"include_usage": True}}
        await self._send(_CHAT, self._body(messages, sampling) | asked, {}, read)
        whole = pieces.completion(policy)
        if whole is None:
            raise Unavailable("the answer broke off")
        return whole

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        body = chat_request(messages, sampling) | {"model": self._model, "return_token_ids": True}
        if form := guide(sampling):
            body["structured_outputs"] = form
        if sampling.unfinished:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if sampling.tools:
            body["tool_choice"] = "none"  # the server does not look for calls in the text; we do
        return body

    async def post(self, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """Send one request and return the decoded answer (`None` if it is empty).

        Raises:
            Unavailable: no answer, or an error of the server's.
            ServingError: the server refused the request.
        """
        found = await self._send(path, body, query, httpx.Response.aread)
        return json.loads(found) if found else None

    async def _send(
        self,
        path: str,
        body: dict[str, Any] | None,
        query: dict[str, str],
        read: Callable[[httpx.Response], Awaitable[T]],
    ) -> T:
        """Send one request and have `read` take the answer in, if it is one."""
        content = json.dumps(body, ensure_ascii=False).encode() if body is not None else b""
        url = self._url.copy_with(path=path, params=query or None)
        request = httpx.Request(
            "POST", url, headers=self._headers, content=content, extensions={"timeout": self._timeout}
        )
        # One transport for each request in flight: httpx's own pool searches all its connections at every request, and
        # at 64 in flight that costs 2 ms of CPU against 0.4.
        transport = (
            self._idle.pop() if self._idle else httpx.AsyncHTTPTransport(verify=False, limits=_ONE, trust_env=False)
        )
        try:
            response = await transport.handle_async_request(request)
            if response.status_code < 400:
                found = await read(response)
            else:
                await response.aread()
        except BaseException as error:
            await transport.aclose()
            if isinstance(error, httpx.HTTPError):
                raise Unavailable(f"{path}: {type(error).__name__} {error}".strip()) from None
            raise
        self._idle.append(transport)
        if response.status_code >= 500 or response.status_code in (408, 429):
            raise Unavailable(f"{path}: status {response.status_code}: {response.text[:300]}")
        if response.status_code >= 400:
            said = f"the model server refused {path} with status {response.status_code}: {response.text[:500]} "
            if _TOO_LONG in response.text:
                raise TooLong(f"{said}Shorten the prompt, or raise serving.max_model_len.")
            raise Refused(f"{said}Change the request: a schema may not be supported.")
        return found

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        while self._idle:
            await self._idle.pop().aclose()


class LiteLLMBackend:
    """Any model that LiteLLM can call, or any OpenAI-compatible server. For graphs that do not train.

    Args:
        model: LiteLLM's name, e.g. `anthropic/claude-sonnet-4-5`; with `base_url` also `openai/NAME`.
        base_url: address of an OpenAI-compatible server.
        api_key: its key; by default LiteLLM takes the provider's environment variable.
        timeout: seconds after which a request counts as lost.
    """

    calls_apart = True

    def __init__(
        self, model: str, *, base_url: str | None = None, api_key: str | None = None, timeout: float = 600.0
    ) -> None:
        known: dict[str, Any] = {
            "api_base": base_url,
            "api_key": api_key,
            "timeout": timeout,
            "num_retries": 0,
            "max_retries": 0,
        }
        self._call = {"model": model} | {name: value for name, value in known.items() if value is not None}

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        """See `Backend.complete`."""
        return completions(await self._ask(self._body(messages, sampling)), policy)[: sampling.n]

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, policy: int | None, on_text: OnText
    ) -> Completion:
        """See `Streaming.stream`."""
        chunks = []
        pieces = aiter(await self._call_model(self._body(messages, sampling) | {"stream": True}))
        litellm = _litellm()
        while True:
            with self._faults(litellm):
                if (chunk := await anext(pieces, None)) is None:
                    break
            chunks.append(chunk)
            if chunk.choices and (text := chunk.choices[0].delta.content):
                on_text(text)
        whole = litellm.stream_chunk_builder(chunks)
        if whole is None or not whole.choices:
            raise Unavailable(f"{self._call['model']}: an answer without choices")
        return completions(whole.model_dump(), policy)[0]

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._call_model(body)).model_dump()
        if not answer.get("choices"):
            raise Unavailable(f"{self._call['model']}: an answer without choices")
        return answer

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        if sampling.choices or sampling.regex or sampling.grammar:
            raise UsageError(
                "a model called through LiteLLM cannot be guided by choices, regex or grammar. Use a schema."
            )
        if sampling.unfinished:
            raise UsageError("a model called through LiteLLM begins its answers anew; it cannot go on with one.")
        body = chat_request(messages, sampling)
        if sampling.schema is not None:
            schema = {"name": "answer", "schema": sampling.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def _call_model(self, body: dict[str, Any]) -> Any:
        litellm = await asyncio.to_thread(_litellm)  # importing it takes seconds
        with self._faults(litellm):
            return await litellm.acompletion(**self._call, **body, drop_params=True)

    @contextmanager
    def _faults(self, litellm: Any) -> Iterator[None]:
        """Say in our words what LiteLLM raises."""
        try:
            yield
        except litellm.exceptions.AuthenticationError as error:
            raise UsageError(f"{self._call['model']} refused the key: {error}. Set the provider's API key.") from None
        except litellm.exceptions.ContextWindowExceededError as error:
            raise TooLong(f"{self._call['model']}: {error}. Shorten the prompt.") from None
        except (litellm.exceptions.BadRequestError, litellm.exceptions.NotFoundError) as error:
            raise Refused(f"{self._call['model']} refused the request: {error}. Check the model's name.") from None
        except Exception as error:
            # LiteLLM's other errors (time-out, connection, rate limit, 5xx) share no class of their own.
            raise Unavailable(f"{self._call['model']}: {type(error).__name__}: {error}") from error

    async def aclose(self) -> None:
        """See `Backend.aclose`."""


def require_provider(model: str) -> None:
    """Make sure that LiteLLM knows whom to ask for a model; nobody is asked.

    Raises:
        UsageError: it does not.
    """
    litellm = _litellm()
    try:
        litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError:
        raise UsageError(
            f"nobody is known who provides the model {model!r}. Write provider/name as LiteLLM has it, or openai/NAME "
            "for one on an OpenAI-compatible server."
        ) from None


Script = Callable[[Sequence[Message], Sampling], Sequence[str] | Awaitable[Sequence[str]]]


class ScriptedBackend:
    """A function in the place of a model: messages and sampling in, n texts out. For tests and examples."""

    calls_apart = False

    def __init__(self, script: Script) -> None:
        self._script = script

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        """See `Backend.complete`. A token is a word here."""
        answer = self._script(messages, sampling)
        texts = await answer if inspect.isawaitable(answer) else answer
        prompt = sum(len(message.content.split()) for message in messages)
        return [
            Completion(
                text=text,
                finish_reason="stop",
                prompt_tokens=prompt,
                completion_tokens=len(text.split()),
                policy=policy,
            )
            for text in texts
        ]

    async def aclose(self) -> None:
        """See `Backend.aclose`."""


def _litellm() -> Any:
    import os

    # Without this, importing it fetches a price list from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True  # it would go to standard output, where programs read
    return litellm
