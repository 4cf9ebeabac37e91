"""Where users' tools run: beside the caller's event loop, so that one that blocks or hangs holds up nobody else.

A thread cannot be killed. These are daemons: what is no longer waited for does not keep the program from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

__all__ = ["in_loop", "in_thread"]

_PATIENCE = 0.5
"""Seconds after which an event loop that gives no sign is taken for blocked."""

_shared: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


async def in_thread(run: Callable[[], Any]) -> Any:
    """Run a plain function in a thread of its own."""
    loop, context = asyncio.get_running_loop(), copy_context()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(run)
        except BaseException as raised:
            error = _carried(raised)
        with contextlib.suppress(RuntimeError):  # nobody waits any longer: the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="autotelic-tool", daemon=True).start()
    return await future


async def in_loop(run: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run an async function in the event loop that users' async tools share.

    They share one because clients and locks that a module holds belong to a single loop. Where a call is given up
    and the loop gives no sign, it is blocked: later calls get a new one.
    """
    loop = _loop()
    future = asyncio.run_coroutine_threadsafe(_contained(run), loop)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        await _forsake_if_blocked(loop)
        raise


async def _contained(run: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    try:
        return await run()
    except (KeyboardInterrupt, SystemExit) as raised:  # these would end the loop
        raise _carried(raised) from None


def _carried(raised: BaseException) -> BaseException:
    """Return what a future can carry: no StopIteration; and an exit is the tool's, not the program's."""
    fits = isinstance(raised, Exception) and not isinstance(raised, StopIteration)
    return raised if fits else RuntimeError(repr(raised))


def _loop() -> asyncio.AbstractEventLoop:
    global _shared
    with _lock:
        if _shared is None:
            _shared = asyncio.new_event_loop()
            threading.Thread(target=_shared.run_forever, name="autotelic-tools", daemon=True).start()
        return _shared


async def _forsake_if_blocked(loop: asyncio.AbstractEventLoop) -> None:
    global _shared
    sign = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
    try:
        await asyncio.wait_for(asyncio.wrap_future(sign), _PATIENCE)
    except TimeoutError:
        with _lock:
            if _shared is loop:
                _shared = None
