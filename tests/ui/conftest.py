from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from autotelic.core.words import Message
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.running import find_graph
from autotelic.refinement import Budget
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.ui.answering import Answerer
from autotelic.ui.api import make_app
from autotelic.ui.guard import Bounds
from autotelic.ui.metrics import Metrics
from autotelic.ui.switchboard import Switchboard
from autotelic.ui.voices import Voices

KEY = "a key that is long enough"


class Model(ScriptedBackend):
    """Says which policy it is and the last word it heard; piece by piece where that is asked for."""

    def __init__(self) -> None:
        self.policy = 0
        self.delivered: list[int] = []
        self.asked: list[tuple[list[Message], Sampling]] = []
        self.pause = asyncio.Event()
        self.pause.set()
        super().__init__(self._say)

    async def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
        self.asked.append((list(messages), sampling))
        before = self.policy
        await self.pause.wait()
        assert self.policy == before, "the weights changed in the middle of an answer"
        last = messages[-1].content
        if sampling.schema is not None and "anyOf" in sampling.schema and messages[-1].role == "user":
            return [json.dumps({"calls": [{"tool": "add", "arguments": {"a": 1, "b": 2}}]})] * sampling.n
        if sampling.schema is not None:
            return [json.dumps({"answer": f"got {last}"})] * sampling.n
        return [f"policy-{self.policy} heard: {last}"] * sampling.n

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, policy: int | None, on_text: Callable[[str], None]
    ) -> Any:
        (found,) = await self.complete(messages, sampling, policy)
        for word in found.text.split(" "):
            on_text(word if word == found.text.split(" ")[0] else f" {word}")
            await asyncio.sleep(0)
        return found

    async def deliver(self, number: int) -> None:
        await asyncio.sleep(0.01)
        self.policy = number
        self.delivered.append(number)


@pytest.fixture
def model() -> Model:
    return Model()


class Run:
    """Who is champion of what."""

    def __init__(self) -> None:
        self.champion = 0
        self.known = [0, 1, 2]


@pytest.fixture
def run() -> Run:
    return Run()


Served = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def gateway(model: Model) -> Gateway:
    found = Gateway(model, attempts=1)
    found.unblock(0)
    return found


@pytest.fixture
def app(model: Model, run: Run, gateway: Gateway) -> Callable[..., Any]:
    def make(**bounds: Any) -> Any:
        context = GraphContext(gateway, budget=Budget(calls=16), max_tokens=64)
        board = Switchboard(model.deliver, lambda: model.policy, turn=0.05)
        graphs = {name: find_graph(name) for name in ("solve", "refine")}
        answerer = Answerer(Voices(context, board, lambda: (run.champion, run.known)), graphs)
        return make_app(answerer, Metrics(), Bounds(**({"keys": (KEY,)} | bounds)))

    return make


@pytest.fixture
def served(app: Callable[..., Any]) -> Served:
    @asynccontextmanager
    async def serve(**bounds: Any) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app(**bounds), raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers) as client:
            yield client

    return serve
