"""Listening on an address until told to stop; what is being answered then is finished."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

from autotelic.core.errors import MissingPackage, UsageError

__all__ = ["LOOPBACK", "listen", "listening_on", "url_of"]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
"""Names of this machine that no other can reach."""


async def listen(app: Any, listening: socket.socket, ready: Callable[[], None], *, grace: int = 30) -> None:
    """Serve an ASGI application until SIGTERM or Ctrl-C; the second of them does not wait for answers.

    Args:
        app: the application.
        listening: see `listening_on`.
        ready: called when it answers.
        grace: seconds that answers under way get at the end.

    Raises:
        MissingPackage: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise MissingPackage("uvicorn", "endpoint") from None
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=grace)
    server = uvicorn.Server(config)

    def told() -> None:
        server.should_exit, server.force_exit = True, server.should_exit

    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, told)
    telling = asyncio.create_task(_tell(server, ready))
    try:
        await server._serve([listening])  # `serve` would raise the signal again, and kill what is to be closed
    finally:
        telling.cancel()


def listening_on(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 takes a free one.

    Raises:
        UsageError: the address cannot be had.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
    except OSError as error:
        listening.close()
        raise UsageError(
            f"{host}:{port} cannot be used: {error.strerror}. Choose another with --port; 0 takes a free one."
        ) from None
    return listening


def url_of(host: str, listening: socket.socket) -> str:
    """Return the address of a socket, without a path."""
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{name}:{listening.getsockname()[1]}"


async def _tell(server: Any, ready: Callable[[], None]) -> None:
    while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.02)
    ready()
