"""Waiting for several things at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from autotelic.core.errors import DeliveryError

__all__ = ["side_by_side"]

T = TypeVar("T")


async def side_by_side(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Make calls side by side; if one fails the others are waited for, so that nothing goes on after the end.

    Raises:
        Exception: what the first that failed raised; a `DeliveryError` comes before others.
    """
    found = await asyncio.gather(*calls, return_exceptions=True)
    failures = [one for one in found if isinstance(one, BaseException)]
    if failures:
        raise min(failures, key=lambda error: not isinstance(error, DeliveryError))
    return [one for one in found if not isinstance(one, BaseException)]
