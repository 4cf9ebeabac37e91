"""What a tool does to itself stays with it: it hangs, blocks, cancels, times out or refuses by its own doing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, ValidationError

from autotelic.tools import Tool, as_tool, tool

HANGING = """
import asyncio, sys, threading
from dataclasses import replace
from langchain_core.tools import BaseTool, Tool, tool
from autotelic.tools import as_tool

@tool
def hang(text: str) -> str:
    "Wait."
    threading.Event().wait()

class Hang(BaseTool):
    name: str = "hang"
    description: str = "Wait."
    def _run(self, text: str) -> str:
        threading.Event().wait()

async def main():
    for one in (hang, Hang(), Tool("hang", lambda text: threading.Event().wait(), "Wait.")):
        ours = replace(as_tool(one), seconds=0.2)
        found = await asyncio.gather(*(ours({next(iter(ours.parameters["properties"])): "x"}) for _ in range(40)))
        print(*{result.reason for result in found})
    print(await asyncio.to_thread(lambda: "free"))  # the executor of the event loop is not theirs

asyncio.run(main())
"""


def test_a_langchain_tool_that_hangs_holds_neither_others_nor_the_programs_end() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=120)
    assert (done.stdout.split(), done.returncode) == (["timeout", "timeout", "timeout", "free"], 0), done.stderr


async def test_an_async_langchain_tool_is_awaited_where_it_belongs() -> None:
    here = asyncio.get_running_loop()

    async def shout(text: str) -> str:
        assert asyncio.get_running_loop() is here
        return text.upper()

    ours = as_tool(StructuredTool.from_function(coroutine=shout, name="shout", description="Say it louder."))
    assert (await ours({"text": "a"})).content == "A"


async def test_a_tool_that_cancels_itself_has_failed_and_its_caller_goes_on() -> None:
    @tool
    async def cancelled(x: int) -> None:
        """Cancel."""
        raise asyncio.CancelledError

    @tool(here=True)
    async def cancelled_here(x: int) -> None:
        """Cancel."""
        raise asyncio.CancelledError

    @tool
    def cancelled_plain(x: int) -> None:
        """Cancel."""
        raise asyncio.CancelledError

    done = []

    async def pull() -> None:
        for one in (cancelled, cancelled_here, cancelled_plain):
            result = await one({"x": 1})
            assert (result.ok, result.reason) == (False, "failed")
            done.append(one.name)

    async with asyncio.TaskGroup() as group:  # to which a child that was cancelled is a child that is done
        group.create_task(pull())
    assert done == ["cancelled", "cancelled_here", "cancelled_plain"]


@pytest.mark.parametrize("here", [True, False])
async def test_who_cancels_a_call_cancels_it_and_the_tool_can_clean_up(here: bool) -> None:
    began, cleaned = threading.Event(), threading.Event()

    @tool(here=here)
    async def wait(x: int) -> None:
        """Wait."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    call = asyncio.create_task(wait({"x": 1}))
    assert await asyncio.to_thread(began.wait, 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(cleaned.wait, 20)


class Small(BaseModel):
    size: int


async def test_its_own_errors_are_not_taken_for_our_time_limit_or_bad_arguments() -> None:
    @tool
    async def late(x: int) -> None:
        """Time out."""
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    @tool
    def refuses(x: int) -> None:
        """Refuse something of its own."""
        Small.model_validate({"size": "large"})

    @tool
    def even(small: Small) -> int:
        """Give the size."""
        return small.size

    timed = await late({"x": 1})
    assert (timed.reason, timed.content.partition(":")[0]) == ("failed", "TimeoutError")
    refused = await refuses({"x": 1})
    assert (refused.reason, refused.content.partition(":")[0]) == ("failed", ValidationError.__name__)
    assert (await even({"small": {"size": "large"}})).reason == "bad_arguments"


async def test_an_async_tool_that_blocks_freezes_nobody_and_its_bound_holds() -> None:
    free = threading.Event()

    @tool(seconds=0.2)
    async def block(x: int) -> None:
        """Block."""
        free.wait(60)

    @tool
    async def add(left: int, right: int) -> int:
        """Add."""
        await asyncio.sleep(0)
        return left + right

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while not free.is_set():
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    assert (await block({"x": 1})).reason == "timeout"
    assert ticks > 1 and not free.is_set(), "the caller's event loop went on meanwhile"
    assert (await add({"left": 1, "right": 2})).content == "3", "the blocked loop was given up for a new one"
    free.set()
    await ticking


async def test_async_tools_share_a_loop_from_one_session_to_the_next() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    @tool
    async def remember(x: int) -> None:
        """Remember."""
        loops.append(asyncio.get_running_loop())

    async def session() -> None:
        assert (await remember({"x": 1})).ok

    await session()
    await asyncio.to_thread(lambda: asyncio.run(session()))
    assert loops[0] is loops[1] is not asyncio.get_running_loop()


async def test_a_call_that_will_not_be_cancelled_is_left_behind() -> None:
    let_go = asyncio.Event()

    async def stubborn(_: dict[str, object]) -> None:
        while not let_go.is_set():
            try:
                await asyncio.wait_for(let_go.wait(), 60)
            except asyncio.CancelledError:
                continue

    late = await Tool("stubborn", "Stay.", {"type": "object"}, stubborn, seconds=0.05)({})
    assert late.reason == "timeout" and not let_go.is_set()
    let_go.set()
