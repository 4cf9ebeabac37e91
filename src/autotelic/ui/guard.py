"""What stands before every request: who asks, from where, how much and how often.

Pure ASGI, so that it also holds for what comes in pieces: a body is read here to its end or to its bound, and only
then handed on.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from autotelic.serving.openai_wire import error_body

__all__ = ["Bounds", "Guard"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN = frozenset({"/health"})
_BODY_SECONDS = 60.0


@dataclass(frozen=True)
class Bounds:
    """What a caller may do."""

    keys: tuple[str, ...] = ()
    """Keys, one of which a request has to bear; none means that anybody may ask."""
    hosts: frozenset[str] | None = None
    """Names by which the server may be addressed; `None` is any. Holds off pages that point a name of theirs here."""
    origins: frozenset[str] = frozenset()
    """Origins of other pages that may ask from a browser."""
    size: int = 2**20
    """Most bytes of a request."""
    rate: float = 600.0
    """Requests in a minute that a key may make."""
    burst: int = 60
    """Requests that it may make at once."""


@dataclass
class _Bucket:
    left: float
    at: float = field(default_factory=time.monotonic)


class Guard:
    """Refuses what the bounds forbid; the rest goes on to `app`.

    Args:
        app: what is guarded.
        bounds: see `Bounds`.
        clock: seconds, for tests.
    """

    def __init__(self, app: App, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._bounds = bounds
        self._clock = clock
        self._keys = [hashlib.sha256(key.encode()).digest() for key in bounds.keys]
        self._buckets: dict[str, _Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin", "")
        if origin in self._bounds.origins:
            send = _readable_by(origin, send)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _allow(send)
                return
        refusal = self._refused(scope, headers)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        size = 0 if scope["path"] in _OPEN else self._bounds.size
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _body(receive, headers, size)
        except TimeoutError:
            await _refuse(send, 408, "the request did not come to its end in time.")
            return
        if body is None:
            await _refuse(send, 413, f"the request is larger than {size} bytes. Shorten it.")
            return
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> MutableMapping[str, Any]:
            return given.pop() if given else await receive()

        await self._app(scope, again, send)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[Any, ...] | None:
        bounds, host = self._bounds, headers.get("host", "")
        if bounds.hosts is not None and _name(host) not in bounds.hosts:
            return 403, f"this server is not called {host!r}. Address it as {' or '.join(sorted(bounds.hosts))}."
        origin = headers.get("origin")
        if origin is not None and origin not in bounds.origins and origin.partition("://")[2] != host:
            return 403, f"pages of {origin} may not ask here."
        if scope["path"] in _OPEN:
            return None
        caller = self._caller(headers.get("authorization", ""))
        if caller is None:
            how = {"www-authenticate": "Bearer"}
            return 401, "the key is missing or wrong. Send it as: Authorization: Bearer KEY.", how
        wait = self._wait(caller)
        if wait > 0:
            return 429, f"too many requests; try again in {wait:.1f} s.", {"retry-after": f"{int(wait) + 1}"}
        return None

    def _caller(self, authorization: str) -> str | None:
        """Return who asks, `None` if nobody who may. Takes as long whatever is wrong."""
        if not self._keys:
            return ""
        scheme, _, given = authorization.partition(" ")
        hashed = hashlib.sha256(given.strip().encode("latin-1")).digest()
        known = [hmac.compare_digest(hashed, key) for key in self._keys]
        return hashed.hex() if scheme.lower() == "bearer" and any(known) else None

    def _wait(self, caller: str) -> float:
        """Take a request out of the caller's bucket; return the seconds until there is one, 0 if there was."""
        per_second, now = self._bounds.rate / 60, self._clock()
        bucket = self._buckets.setdefault(caller, _Bucket(self._bounds.burst, now))
        bucket.left = min(self._bounds.burst, bucket.left + (now - bucket.at) * per_second)
        bucket.at = now
        if bucket.left < 1:
            return (1 - bucket.left) / per_second
        bucket.left -= 1
        return 0.0


async def _body(receive: Receive, headers: dict[str, str], most: int) -> bytes | None:
    """Read a body; `None` if it is larger than allowed, which what it says of itself may tell before it is read."""
    said = headers.get("content-length", "")
    if said.isdecimal() and int(said) > most:
        return None
    found = bytearray()
    while True:
        message = await receive()
        found += message.get("body", b"")
        if len(found) > most:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(found)


async def _refuse(send: Send, status: int, why: str, more: dict[str, str] | None = None) -> None:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    body = json.dumps(error_body(why, kinds.get(status, "invalid_request_error"))).encode()
    headers = {"content-type": "application/json", "connection": "close", **(more or {})}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _readable_by(origin: str, send: Send) -> Send:
    """Return what sends so that a page of `origin` may read it."""

    async def readable(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            allowed = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]
            message = {**message, "headers": [*message.get("headers", ()), *allowed]}
        await send(message)

    return readable


async def _allow(send: Send) -> None:
    """Answer what a browser asks before it lets a page send a key; that question bears none."""
    headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
