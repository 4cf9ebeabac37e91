"""A user's own LangGraph agent as the solver, unchanged: its model calls go to the policy and are recorded and trained.

The agent is built anew for each episode, with an address of its own as `OPENAI_BASE_URL`; so its model has to be made
where the graph is made. A model that is made later finds an address where nobody answers, never the user's provider.
The agent gets `{"messages": [...]}` and its last message is the answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from autotelic.agents import Attempt, CallRecord, Solver
from autotelic.core.dialect import Said, answering, read_turn
from autotelic.core.errors import UsageError
from autotelic.core.plugins import load_source
from autotelic.core.seeds import derive
from autotelic.core.waiting import side_by_side
from autotelic.core.words import Completion, Message, Task, ToolCall, sound
from autotelic.environments import Environment
from autotelic.graphs.running import compiled
from autotelic.serving import Endpoint, Exchange, Gateway, Recording, Sampling, ScriptedBackend, open_endpoint
from autotelic.tools import ToolResult

__all__ = ["AgentSolver", "openai_address", "prove_agent"]

_NOWHERE = "http://127.0.0.1:9/v1"  # nobody listens there
_FAILURE = 300  # characters of an agent's error that are kept


class AgentSolver(Solver):
    """Answers tasks by a graph of the user's.

    Args:
        gateway: where model calls end.
        environment: parses and checks the answers.
        spec: `file.py:name` or `package.module:name` of a graph, or of a function without arguments that returns one.
        endpoint: gives each episode its address.
        seconds: bound on an episode.
    """

    def __init__(
        self, gateway: Gateway, environment: Environment, spec: str, endpoint: Endpoint, *, seconds: float = 300.0
    ) -> None:
        super().__init__(gateway, environment)
        self._spec, self._endpoint, self._seconds = spec, endpoint, seconds

    def messages(self, task: Task, examples: Sequence[Message] = (), advice: Sequence[str] = ()) -> tuple[Message, ...]:
        """Return what the agent is given; of solved examples question and answer, its calls are its own business."""
        shown = []
        for message in examples:
            said = read_turn(message.content) if message.role == "assistant" else Said()
            if message.role != "tool" and not said.calls:
                shown.append(message if said.answer is None else message.model_copy(update={"content": said.answer}))
        return super().messages(task, shown, advice)

    async def attempt(self, task: Task, messages: Sequence[Message], sampling: Sampling) -> list[Attempt]:
        """Run the agent `sampling.n` times and judge each of its answers."""
        return await side_by_side(self._episode(task, messages, sampling, i) for i in range(sampling.n))

    async def _episode(self, task: Task, messages: Sequence[Message], sampling: Sampling, sample: int) -> Attempt:
        seed = None if sampling.seed is None else derive(sampling.seed, sample)
        text, reason, words = None, "ok", ""
        async with self._endpoint.episode(replace(sampling, n=1, seed=seed)) as (url, recording):
            try:
                async with asyncio.timeout(self._seconds):
                    state = await _build(self._spec, url).ainvoke(_given(messages))
                text = sound(str(state["messages"][-1].content))
            except TimeoutError:
                reason = "timeout"
            except Exception as error:  # whatever an agent does wrong is data
                reason, words = f"agent_failed_{type(error).__name__}", str(error)[:_FAILURE]
        if recording.failure is not None:  # but a model that cannot be reached is not its doing
            raise recording.failure
        if not recording.exchanges:
            nothing = Completion(text=words, finish_reason="stop")
            return Attempt(nothing, None, 0.0, "no_model_call" if reason == "ok" else reason)
        return await self._judged(task, text, reason, recording, messages)

    async def _judged(
        self, task: Task, text: str | None, reason: str, recording: Recording, given: Sequence[Message]
    ) -> Attempt:
        first, last = recording.exchanges[0], recording.exchanges[-1]
        prompt, turns = _split(first, last, recording.exchanges)
        made = [exchange.completion for exchange in recording.exchanges]
        counts = {name: sum(getattr(c, name) for c in made) for name in ("prompt_tokens", "completion_tokens")}
        plain = given[0].model_copy(update={"content": self._environment.system_prompt(task)})
        bare = tuple(plain if message == given[0] else message for message in _without(prompt, given[1:-1]))
        attempt = Attempt(
            last.completion.model_copy(update=counts),
            None,
            0.0,
            reason if text is None else "ok",
            turns,
            _calls(turns),
            prompt=prompt,
            bare=bare,
            tools=last.tools,
        )
        if text is None:
            return attempt
        answer = self._environment.parse(task, text)
        checked = await self._environment.check(task, answer)
        return replace(attempt, answer=answer, score=checked.score, reason=checked.reason)


async def prove_agent(environment: Environment, spec: str, *, seconds: float = 300.0) -> None:
    """Find out before the first episode whether an agent can be built, and built anew, and calls the model it is given.

    It is put one task, with no model behind its address, and stopped at its first call.

    Args:
        environment: gives the task.
        spec: see `AgentSolver`.
        seconds: bound on the time to the first call.

    Raises:
        UsageError: it cannot be built, or no call of it arrives.
    """
    called = False

    def heard(_: Sequence[Message], sampling: Sampling) -> list[str]:
        nonlocal called
        called = True
        agent.cancel()
        return [answering("stop")] * sampling.n

    _build(spec, _NOWHERE)
    gateway = Gateway(ScriptedBackend(heard))
    async with open_endpoint(gateway) as endpoint, endpoint.episode(Sampling()) as (url, _):
        (task,) = environment.tasks(1, seed=0)
        messages = AgentSolver(gateway, environment, spec, endpoint).messages(task)
        agent = asyncio.ensure_future(_build(spec, url).ainvoke(_given(messages)))
        try:
            async with asyncio.timeout(seconds):
                (ended,) = await asyncio.gather(agent, return_exceptions=True)
        except TimeoutError as error:
            ended = error
    if not called:
        why = f" ({type(ended).__name__}: {str(ended)[:_FAILURE]})" if isinstance(ended, Exception) else ""
        raise UsageError(
            f"no model call of the agent {spec} gets to the policy{why}. Its model has to be made where the graph is "
            'made, e.g. ChatOpenAI(model="policy"), with address and key from OPENAI_BASE_URL and OPENAI_API_KEY.'
        )


@contextmanager
def openai_address(url: str = _NOWHERE) -> Iterator[None]:
    """Have models that are made meanwhile take `url` for OpenAI's; by default nobody answers there."""
    values = {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url, "OPENAI_API_KEY": "autotelic"}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _build(spec: str, url: str) -> Any:
    source, colon, name = spec.rpartition(":")
    if not colon:
        raise UsageError(f"solver is {spec!r}, expected file.py:graph or package.module:graph.")
    with openai_address(url):
        found = getattr(load_source(source, again=True), name, None)
        if found is None:
            raise UsageError(f"{source} has no {name!r}. Check the part after the colon in {spec!r}.")
        return compiled(found)


def _given(messages: Sequence[Message]) -> dict[str, Any]:
    return {"messages": [message.openai() for message in messages]}


def _split(
    first: Exchange, last: Exchange, exchanges: Sequence[Exchange]
) -> tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]:
    """Tell prompt and turns apart: one conversation if the last call goes on from the first, else the last alone."""
    size = len(first.messages)
    if last.messages[:size] != first.messages:
        return last.messages, ()
    ids = {exchange.completion.text: list(exchange.completion.token_ids) for exchange in exchanges}
    turns = []
    for message in last.messages[size:]:
        kept = message.model_dump(mode="json", exclude_defaults=True)
        turns.append(kept | ({"token_ids": ids.get(message.content, [])} if message.role == "assistant" else {}))
    return first.messages, tuple(turns)


def _without(prompt: tuple[Message, ...], examples: Sequence[Message]) -> tuple[Message, ...]:
    """The prompt without the solved examples that memory put there; as it is if the agent changed them."""
    size = len(examples)
    for at in range(len(prompt) - size + 1 if size else 0):
        if prompt[at : at + size] == tuple(examples):
            return prompt[:at] + prompt[at + size :]
    return prompt


def _calls(turns: Sequence[dict[str, Any]]) -> tuple[CallRecord, ...]:
    """What the agent's tools were called with and gave, as far as the conversation shows it."""
    records: list[CallRecord] = []
    waiting: list[ToolCall] = []
    for turn in turns:
        if turn["role"] == "assistant":
            waiting = list(read_turn(turn["content"]).calls)
        elif turn["role"] == "tool" and waiting:
            result = ToolResult(ok=True, content=turn["content"])
            records.append(CallRecord(call=waiting.pop(0), result=result, seconds=0.0))
    return tuple(records)
