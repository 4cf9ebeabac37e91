"""`autotelic serve`: the policies of a run, a model or a remote one behind an address that OpenAI's clients know.

A run's lease is not taken: a session may go on while its champion answers here. Who is champion is looked up in the
ledger every second; a new one is delivered between two answers, and no request is refused for it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autotelic.core.errors import MissingPackage, UsageError
from autotelic.core.progress import Progress
from autotelic.core.registry import available
from autotelic.graphs.running import find_graph
from autotelic.graphs.source import Source
from autotelic.refinement import Budget
from autotelic.tools import ToolsConfig
from autotelic.ui.listen import LOOPBACK, listen, listening_on, url_of
from autotelic.ui.voices import open_voices

if TYPE_CHECKING:
    from autotelic.ui.answering import Answerer

__all__ = ["Address", "Offer", "keys_of", "open_answerer", "serve"]


@dataclass(frozen=True)
class Offer:
    """Who answers, and with what."""

    source: Source
    """The model."""
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    """Tools that graphs may use."""
    graphs: tuple[str, ...] = ()
    """Graphs of the user's, `file.py:name`, besides the registered ones."""
    budget: Budget = field(default_factory=lambda: Budget(calls=64, seconds=120))
    """Most that one answer by a strategy or a graph may cost."""
    max_tokens: int = 512
    """Bound on an answer where the request has none, tokens."""


@dataclass(frozen=True)
class Address:
    """Where it listens, and whom it lets in."""

    host: str = "127.0.0.1"
    """Address; anything but the loopback needs keys."""
    port: int = 8000
    """Port, 0 for a free one."""
    keys: tuple[str, ...] = ()
    """Keys; none lets in whoever reaches the address."""
    origins: tuple[str, ...] = ()
    """Origins of pages that may ask from a browser."""
    size: int = 2**20
    """Most bytes of a request."""
    rate: float = 600.0
    """Requests in a minute that a key may make."""
    grace: int = 30
    """Seconds that answers under way get when it is told to stop."""
    traces: str | None = None
    """Address of an OpenTelemetry collector."""

    def __post_init__(self) -> None:
        if not self.keys and self.host not in LOOPBACK:
            raise UsageError(
                f"--host {self.host} can be reached from other machines, and no key is asked for. Give --keys, or "
                "listen on 127.0.0.1."
            )


def keys_of(file: Path | None) -> tuple[str, ...]:
    """Return the keys in a file, one a line, or one made up if there is none.

    Raises:
        UsageError: the file cannot be read, or holds no key, or one that can be guessed.
    """
    if file is None:
        return (secrets.token_urlsafe(24),)
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the keys cannot be read from {file}: {error}.") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    short = [number for number, key in enumerate(keys, 1) if len(key) < 16]
    if not keys or short:
        what = f"key {short[0]} has fewer than 16 characters" if short else "there is none"
        raise UsageError(f"the keys in {file} cannot be used: {what}. Write one a line, of 16 characters or more.")
    return keys


async def serve(offer: Offer, address: Address, progress: Progress, ready: Callable[[str, list[str]], None]) -> None:
    """Serve until told to stop by SIGTERM or Ctrl-C; answers under way are finished.

    Args:
        offer: who answers.
        address: where.
        progress: shows how far the start is.
        ready: called with the base URL and the names of the models when it listens.

    Raises:
        UsageError: the port is taken, or the offer cannot be made.
        MissingPackage: starlette, uvicorn or prometheus_client is not installed.
    """
    try:
        from autotelic.ui.api import make_app
        from autotelic.ui.guard import Bounds
        from autotelic.ui.metrics import Metrics
    except ModuleNotFoundError as error:
        raise MissingPackage(str(error.name), "endpoint") from None
    with listening_on(address.host, address.port) as listening:
        metrics = Metrics(address.traces)
        async with open_answerer(offer, progress, metrics.champion) as answerer:
            hosts = LOOPBACK if address.host in LOOPBACK else None
            bounds = Bounds(address.keys, hosts, frozenset(address.origins), address.size, address.rate)
            url = f"{url_of(address.host, listening)}/v1"
            try:
                await listen(
                    make_app(answerer, metrics, bounds),
                    listening,
                    lambda: ready(url, answerer.names()),
                    grace=address.grace,
                )
            finally:
                metrics.close()


@asynccontextmanager
async def open_answerer(
    offer: Offer, progress: Progress, champion: Callable[[int], None] = lambda _: None
) -> AsyncIterator[Answerer]:
    """Open who answers.

    Args:
        offer: see `Offer`.
        progress: shows how far it is.
        champion: called with the champion's number, and again whenever it is another.
    """
    from autotelic.ui.answering import Answerer

    graphs = {name: find_graph(name) for name in [*available("graph"), *offer.graphs]}
    async with open_voices(offer.source, offer.tools, progress, champion=champion, log="serve.log") as voices:
        context = replace(voices.context, max_tokens=offer.max_tokens, budget=offer.budget)
        yield Answerer(replace(voices, context=context), graphs)
