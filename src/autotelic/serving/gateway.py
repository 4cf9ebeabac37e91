"""Every model call goes through here: one limiter, bounded retries, one place where a delivery can hold all requests.

Requests are readers and a delivery is a writer: it waits until no request is in flight and holds new ones back, so
that no answer comes from two policies. A request stays a reader through its retries, so that what was begun under a
policy is answered by that policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from autotelic.core.errors import DeliveryError, ServingError
from autotelic.core.seeds import derive
from autotelic.core.words import Completion, Message
from autotelic.serving.backends import Backend, OnText, Streaming, TooLong, Unavailable
from autotelic.serving.sampling import Sampling

__all__ = ["TOO_LONG", "Counters", "Gateway"]

TOO_LONG = "too_long"
"""How a completion ends, and why there is no answer, where the prompt did not fit the model."""


@dataclass
class Counters:
    """What went through a gateway since it was made."""

    calls: int = 0
    """Requests answered."""
    retries: int = 0
    """Attempts that had to be repeated."""
    prompt_tokens: int = 0
    """Tokens of the prompts, each request once."""
    completion_tokens: int = 0
    """Generated tokens."""


class Gateway:
    """Model calls with a limit, retries and the delivery's exclusion.

    Args:
        backend: where calls end.
        concurrency: requests in flight at once.
        attempts: how often a request is tried in all.
        backoff: seconds before the second attempt, doubled at each further one.
        recover: called after an attempt that got no answer; repairs the server if it is dead.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        concurrency: int = 64,
        attempts: int = 4,
        backoff: float = 0.25,
        recover: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.backend = backend
        self.policy: int | None = None
        self.counters = Counters()
        self._limit = asyncio.Semaphore(concurrency)
        self._attempts = attempts
        self._backoff = backoff
        self._recover = recover
        self._blocked: str | None = None
        self._readers = 0
        self._idle = asyncio.Event()
        self._open = asyncio.Event()
        self._writer = asyncio.Lock()
        self._idle.set()
        self._open.set()

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling | None = None, on_text: OnText | None = None
    ) -> list[Completion]:
        """Return `sampling.n` completions, each by the policy that was proved when its request began.

        A back end that gives fewer in one request is asked again for the rest, with another seed.

        Args:
            messages: the conversation.
            sampling: how to sample.
            on_text: for one answer, gets its pieces as they come; where the back end cannot stream, all at once.

        Raises:
            DeliveryError: no policy is proved, because the last delivery failed.
            TooLong: the prompt leaves no room for an answer.
            ServingError: the server refused the request, or gave no answer in all attempts.
        """
        return [one async for found in self.requests(messages, sampling or Sampling(), on_text) for one in found]

    async def requests(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None = None
    ) -> AsyncIterator[list[Completion]]:
        """Make as many requests as it takes to have `sampling.n` completions; gives those of each."""
        found = await self.request(messages, sampling, on_text)
        made = len(found)
        yield found
        while made < sampling.n:
            seed = None if sampling.seed is None else derive(sampling.seed, made)
            found = await self.request(messages, replace(sampling, n=sampling.n - made, seed=seed), on_text)
            made += len(found)
            yield found

    async def request(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None = None
    ) -> list[Completion]:
        """Make one request; what comes of it may be fewer completions than `sampling.n`. Raises as `complete` does."""
        async with self._limit, self._reading():
            found = await self._try(messages, sampling, on_text)
        self.counters.calls += 1
        self.counters.prompt_tokens += found[0].prompt_tokens
        self.counters.completion_tokens += sum(completion.completion_tokens for completion in found)
        return found

    async def attempt(self, messages: Sequence[Message], sampling: Sampling) -> list[Completion]:
        """Like `complete`, but a prompt that is too long gives empty completions that ended by `too_long`.

        For bulk work, where one task that does not fit the model is a task it cannot do and must not end the rest.
        """
        try:
            return await self.complete(messages, sampling)
        except TooLong:
            return [Completion(text="", finish_reason=TOO_LONG, policy=self.policy)] * sampling.n

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Be alone with the server: waits for requests in flight, holds back new ones until the end."""
        async with self._writer:
            self._open.clear()
            try:
                await self._idle.wait()
                yield
            finally:
                self._open.set()

    @property
    def blocked(self) -> bool:
        """Whether all requests are refused."""
        return self._blocked is not None

    def block(self, reason: str) -> None:
        """Refuse all requests, with this reason, until `unblock`."""
        self._blocked, self.policy = reason, None

    def unblock(self, policy: int | None) -> None:
        """Take requests again; answers are marked with `policy`."""
        self._blocked, self.policy = None, policy

    async def aclose(self) -> None:
        """Let go of the back end's connections."""
        await self.backend.aclose()

    async def _try(self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None) -> list[Completion]:
        said: list[str] = []
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._once(messages, sampling, on_text, said)
            except Unavailable as error:
                if said or attempt == self._attempts:  # what was heard cannot be taken back
                    raise ServingError(
                        f"no answer from the model in {attempt} attempts; the last: {error}. "
                        "Look at the server's log, then run the same command again."
                    ) from error
            self.counters.retries += 1
            if self._recover is not None:
                await self._recover()
                self._refuse_if_blocked()
            await asyncio.sleep(self._backoff * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    async def _once(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None, said: list[str]
    ) -> list[Completion]:
        def heard(text: str) -> None:
            said.append(text)
            if on_text is not None:
                on_text(text)

        if on_text is not None and isinstance(self.backend, Streaming):
            return [await self.backend.stream(messages, sampling, self.policy, heard)]
        found = await self.backend.complete(messages, sampling, self.policy)
        if not found:
            raise Unavailable("an answer without any completion")
        if on_text is not None:
            heard(found[0].text)
        return found

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        while not self._open.is_set():
            await self._open.wait()
        self._refuse_if_blocked()
        self._readers += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._idle.set()

    def _refuse_if_blocked(self) -> None:
        if self._blocked is not None:
            raise DeliveryError(self._blocked)
