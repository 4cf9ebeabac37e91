"""Where the gateway's calls end: the local server, any provider that LiteLLM knows, or a script for tests.

A back end makes one attempt at one request. It says `Unavailable` where another attempt may succeed, and raises
`ServingError` or `UsageError` where it cannot; retrying, limiting and counting are the gateway's.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import httpx

from autotelic.core.errors import ServingError, UsageError
from autotelic.core.words import Completion, Message, ToolCall

__all__ = [
    "Backend",
    "LiteLLMBackend",
    "LocalBackend",
    "OnText",
    "Refused",
    "Sampling",
    "ScriptedBackend",
    "Streaming",
    "TooLong",
    "Unavailable",
]

T = TypeVar("T")
_CHAT = "/v1/chat/completions"
_TOO_LONG = "maximum context length"
"""What vLLM says, whether the prompt alone is too long or leaves too little room for `max_tokens`."""

# vLLM closes an idle connection after five seconds; we give it up before, so as not to send into its closing.
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one request is sampled. At most one of `schema`, `choices` and `regex` guides the decoding."""

    n: int = 1
    """Answers to the same prompt."""
    max_tokens: int = 256
    """Bound on each answer, tokens."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus of the distribution that is sampled from."""
    seed: int | None = None
    """Seed of this request; its n answers differ from one another."""
    schema: dict[str, Any] | None = None
    """JSON schema that every answer obeys, without white space between its parts."""
    choices: tuple[str, ...] | None = None
    """The answer is one of these."""
    regex: str | None = None
    """The answer matches this."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not part of it."""
    logprobs: bool = False
    """Whether to return the log-probability of each generated token."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the model is told of, in OpenAI's form. Our own server writes them into the prompt, by the chat
    template; calls are then part of the text, and a `schema` is what holds them to a form."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"sampling with n={self.n}, max_tokens={self.max_tokens}, temperature={self.temperature}, "
                f"top_p={self.top_p} is impossible. "
                "Set n and max_tokens to 1 or more, temperature to 0 or more, and top_p between 0 and 1."
            )
        guides = [name for name in ("schema", "choices", "regex") if getattr(self, name) is not None]
        if len(guides) > 1:
            raise UsageError(f"sampling is guided by {' and '.join(guides)} at once. Keep one of them.")


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
        """Return `sampling.n` completions, marked with `policy`.

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
    """

    calls_apart = False

    def __init__(self, url: str, headers: dict[str, str], model: str, *, timeout: float = 600.0) -> None:
        self._model = model
        self._url = httpx.URL(url)
        self._headers = [*headers.items(), ("Content-Type", "application/json"), ("Host", self._url.netloc.decode())]
        self._timeout = httpx.Timeout(timeout, connect=10.0).as_dict()
        self._idle: list[httpx.AsyncHTTPTransport] = []

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        """See `Backend.complete`."""
        return _completions(await self.post(_CHAT, self._body(messages, sampling)), policy)

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, policy: int | None, on_text: OnText
    ) -> Completion:
        """See `Streaming.stream`."""
        pieces = _Pieces(on_text)

        async def read(response: httpx.Response) -> None:
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    pieces.take(json.loads(line.removeprefix("data: ")))

        asked = {"stream": True, "stream_options": {"include_usage": True}}
        await self._send(_CHAT, self._body(messages, sampling) | asked, {}, read)
        return pieces.completion(policy)

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        body = chat_request(messages, sampling) | {"model": self._model, "return_token_ids": True}
        if guide := _guide(sampling):
            body["structured_outputs"] = guide
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
        """See `Backend.complete`. Providers that give one answer a request are asked n times."""
        body = self._body(messages, sampling)
        found: list[Completion] = []
        while len(found) < sampling.n:
            answer = await self._ask(body | {"n": sampling.n - len(found)})
            found.extend(_completions(answer, policy))
        return found[: sampling.n]

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, policy: int | None, on_text: OnText
    ) -> Completion:
        """See `Streaming.stream`."""
        chunks = []
        async for chunk in await self._call_model(self._body(messages, sampling) | {"stream": True}):
            chunks.append(chunk)
            if chunk.choices and (text := chunk.choices[0].delta.content):
                on_text(text)
        whole = _litellm().stream_chunk_builder(chunks)
        if whole is None or not whole.choices:
            raise Unavailable(f"{self._call['model']}: an answer without choices")
        return _completions(whole.model_dump(), policy)[0]

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._call_model(body)).model_dump()
        if not answer.get("choices"):
            raise Unavailable(f"{self._call['model']}: an answer without choices")
        return answer

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        if sampling.choices is not None or sampling.regex is not None:
            raise UsageError("a model called through LiteLLM cannot be guided by choices or regex. Use a schema.")
        body = chat_request(messages, sampling)
        if sampling.schema is not None:
            schema = {"name": "answer", "schema": sampling.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def _call_model(self, body: dict[str, Any]) -> Any:
        litellm = await asyncio.to_thread(_litellm)  # importing it takes seconds
        try:
            return await litellm.acompletion(**self._call, **body, drop_params=True)
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


def chat_request(messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    """Return the part of a chat request that every OpenAI-compatible server understands."""
    body: dict[str, Any] = {
        "messages": [message.openai() for message in messages],
        "n": sampling.n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs:
        body["logprobs"] = True
    if sampling.tools:
        body["tools"] = list(sampling.tools)
    return body


def _guide(sampling: Sampling) -> dict[str, Any] | None:
    if sampling.schema is not None:
        return {"json": sampling.schema}
    if sampling.choices is not None:
        return {"choice": list(sampling.choices)}
    if sampling.regex is not None:
        return {"regex": sampling.regex}
    return None


def _completions(answer: dict[str, Any], policy: int | None) -> list[Completion]:
    """Read an OpenAI chat answer. Providers count tokens for the whole request: without ids they are shared out."""
    usage = answer.get("usage") or {}
    choices = answer["choices"]
    prompt = usage.get("prompt_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    share, rest = divmod(usage.get("completion_tokens") or 0, len(choices))
    found = []
    for index, choice in enumerate(choices):
        ids = choice.get("token_ids") or ()
        content = (choice.get("logprobs") or {}).get("content") or ()
        found.append(
            Completion(
                text=choice["message"].get("content") or "",
                finish_reason=choice.get("finish_reason") or "stop",
                token_ids=tuple(ids),
                logprobs=tuple(token["logprob"] for token in content),
                prompt_tokens=prompt,
                cached_tokens=cached,
                completion_tokens=len(ids) or share + (index < rest),
                policy=policy,
                calls=tuple(_calls(choice["message"])),
            )
        )
    return found


class _Pieces:
    """An answer that comes in pieces, as OpenAI-compatible servers stream it."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._text = ""
        self._ids: list[int] = []
        self._logprobs: list[Any] = []
        self._reason: str | None = None
        self._usage: dict[str, Any] = {}

    def take(self, chunk: dict[str, Any]) -> None:
        """Take one chunk in."""
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._ids += choice.get("token_ids") or ()
            self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
            self._reason = choice.get("finish_reason") or self._reason
            if text := choice["delta"].get("content"):
                self._text += text
                self._on_text(text)

    def completion(self, policy: int | None) -> Completion:
        """Return the whole answer."""
        if self._reason is None:
            raise Unavailable("the answer broke off")
        choice = {
            "message": {"content": self._text},
            "finish_reason": self._reason,
            "token_ids": self._ids,
            "logprobs": {"content": self._logprobs},
        }
        return _completions({"choices": [choice], "usage": self._usage}, policy)[0]


def _calls(message: dict[str, Any]) -> Iterator[ToolCall]:
    for call in message.get("tool_calls") or ():
        function = call["function"]
        yield ToolCall(id=call.get("id") or "", name=function.get("name") or "", arguments=function["arguments"] or "")


def _litellm() -> Any:
    import os

    # Without this, importing it fetches a price list from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True  # it would go to standard output, where programs read
    return litellm
