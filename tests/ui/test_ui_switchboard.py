from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotelic.core.errors import DeliveryError
from autotelic.ui.switchboard import Switchboard


class Server:
    def __init__(self) -> None:
        self.policy: int | None = 0
        self.delivered: list[int] = []
        self.holders = 0

    async def deliver(self, number: int) -> None:
        assert not self.holders, "delivered under somebody's answer"
        self.policy = None
        await asyncio.sleep(0)
        if number == 9:
            raise DeliveryError("policy-9 is broken")
        self.policy = number
        self.delivered.append(number)

    async def answer(self, board: Switchboard, policy: int, steps: int) -> int:
        async with board.held(policy):
            self.holders += 1
            try:
                for _ in range(steps):
                    assert self.policy == policy
                    await asyncio.sleep(0)
            finally:
                self.holders -= 1
        return policy


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=30), st.sampled_from([0.0, 1e-4, 10.0]))
def test_everybody_is_answered_by_whom_he_asked(asked: list[tuple[int, int]], turn: float) -> None:
    async def main() -> None:
        server = Server()
        board = Switchboard(server.deliver, lambda: server.policy, turn=turn)
        found = await asyncio.gather(*(server.answer(board, *one) for one in asked))
        assert found == [policy for policy, _ in asked]
        await board.aclose()

    asyncio.run(asyncio.wait_for(main(), 20))


async def test_requests_for_one_policy_share_a_delivery() -> None:
    server = Server()
    board = Switchboard(server.deliver, lambda: server.policy, turn=10)
    await asyncio.gather(*(server.answer(board, policy, 1) for policy in (0, 1, 0, 1, 0, 1, 0)))
    assert server.delivered == [1]


async def test_a_server_that_lost_its_policy_is_asked_to_deliver_it_again() -> None:
    server = Server()
    board = Switchboard(server.deliver, lambda: server.policy)
    await server.answer(board, 0, 1)
    server.policy = None  # it died, and could not be brought back
    assert await asyncio.wait_for(server.answer(board, 0, 1), 20) == 0
    assert server.delivered == [0]


async def test_who_waits_longer_than_a_turn_is_next() -> None:
    server = Server()
    board = Switchboard(server.deliver, lambda: server.policy, turn=0.0)
    order: list[str] = []

    async def one(name: str, policy: int) -> None:
        async with board.held(policy):
            order.append(name)
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(one("first", 0))]
    await asyncio.sleep(0)
    for name, policy in (("other", 1), ("late", 0), ("later", 0)):
        tasks.append(asyncio.create_task(one(name, policy)))
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert order == ["first", "other", "late", "later"] and server.delivered == [1, 0]


async def test_a_policy_that_cannot_be_delivered_fails_its_own_requests_only() -> None:
    server = Server()
    board = Switchboard(server.deliver, lambda: server.policy)
    found = await asyncio.gather(*(server.answer(board, p, 1) for p in (0, 9, 9, 1)), return_exceptions=True)
    assert found[0] == 0 and found[3] == 1
    assert all(isinstance(one, DeliveryError) for one in found[1:3])
    assert await server.answer(board, 1, 1) == 1


async def test_who_gives_up_waiting_is_in_nobodys_way() -> None:
    server = Server()
    board = Switchboard(server.deliver, lambda: server.policy, turn=0.0)
    async with board.held(0):
        waiting = asyncio.create_task(server.answer(board, 1, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await server.answer(board, 0, 1) == 0
    assert not server.delivered
    assert await server.answer(board, 2, 1) == 2


async def test_given_up_in_the_moment_of_being_let_in() -> None:
    server = Server()
    board = Switchboard(server.deliver, lambda: server.policy)
    waiting = asyncio.create_task(server.answer(board, 0, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.wait_for(server.answer(board, 1, 1), 5) == 1
