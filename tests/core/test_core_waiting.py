"""Waiting for several things: nothing goes on behind the back of who waited."""

from __future__ import annotations

import asyncio

import pytest

from autotelic.core.errors import DeliveryError, ServingError
from autotelic.core.waiting import side_by_side


async def test_all_are_waited_for_also_where_one_fails_and_a_lost_policy_comes_first() -> None:
    ended: list[str] = []

    async def call(name: str, seconds: float, error: Exception | None = None) -> str:
        await asyncio.sleep(seconds)
        ended.append(name)
        if error is not None:
            raise error
        return name

    assert await side_by_side(call(name, wait) for name, wait in (("a", 0.02), ("b", 0))) == ["a", "b"]
    ended.clear()
    with pytest.raises(DeliveryError):
        await side_by_side([call("a", 0, ServingError("x")), call("b", 0.01, DeliveryError("y")), call("c", 0.03)])
    assert ended == ["a", "b", "c"]
