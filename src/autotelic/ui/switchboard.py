"""One server, several policies: who asks for the one that is served is answered at once, the others take turns.

A policy is in the server until those who hold it are done. Somebody who wants another waits until it is, and from the
moment that he has waited for a turn's length nobody is let in before him: no policy starves, and none is changed for
every second request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

__all__ = ["Switchboard"]


@dataclass(eq=False)
class _Ticket:
    policy: int
    since: float
    admitted: asyncio.Future[None]


class Switchboard:
    """Holds a policy in the server for as long as an answer takes.

    Args:
        deliver: makes the server answer with a policy, proved.
        served: returns which it answers with now, `None` if with none: a server that could not be brought back is
            asked to deliver again for whoever comes next.
        turn: seconds that somebody who wants another waits at most while more come for this one.
    """

    def __init__(
        self, deliver: Callable[[int], Awaitable[object]], served: Callable[[], int | None], *, turn: float = 2.0
    ) -> None:
        self._deliver = deliver
        self._served = served
        self._turn = turn
        self._holders = 0
        self._queue: list[_Ticket] = []
        self._switching: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def held(self, policy: int) -> AsyncIterator[None]:
        """Wait until the server answers with `policy`, and keep it there to the end.

        Raises:
            ServingError: it could not be delivered.
        """
        ticket = _Ticket(policy, time.monotonic(), asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._admit()
        try:
            await ticket.admitted
        except BaseException:
            if ticket in self._queue:
                self._queue.remove(ticket)
            elif ticket.admitted.done() and not ticket.admitted.cancelled() and not ticket.admitted.exception():
                self._leave()
            raise
        try:
            yield
        finally:
            self._leave()

    async def aclose(self) -> None:
        """Wait for a delivery that is under way."""
        if self._switching is not None:
            await self._switching

    def _leave(self) -> None:
        self._holders -= 1
        self._admit()

    def _admit(self) -> None:
        """Let in who may come in; change the policy when the server is free and somebody wants another."""
        if self._switching is not None:
            return
        now, served = time.monotonic(), self._served()
        others = [ticket for ticket in self._queue if ticket.policy != served]
        first = others[0] if others else None
        for ticket in [ticket for ticket in self._queue if ticket.policy == served]:
            if first is not None and first.since < ticket.since and now - first.since >= self._turn:
                break
            self._queue.remove(ticket)
            if not ticket.admitted.done():
                self._holders += 1
                ticket.admitted.set_result(None)
        if first is not None and not self._holders:
            self._switching = asyncio.create_task(self._switch(first.policy))

    async def _switch(self, policy: int) -> None:
        try:
            await self._deliver(policy)
        except Exception as error:
            for ticket in [ticket for ticket in self._queue if ticket.policy == policy]:
                self._queue.remove(ticket)
                if not ticket.admitted.done():
                    ticket.admitted.set_exception(error)
        finally:
            self._switching = None
            self._admit()
