"""Who answers a request of the endpoint: a policy itself, a policy by a strategy, or a graph.

A policy speaks for itself: the conversation goes to the model as it came, and its words come back as they are
generated. Strategies and graphs answer the last question when they are done; what they spent is the price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autotelic.core.errors import ServingError, UsageError
from autotelic.core.words import Message
from autotelic.graphs.ask import PLAIN, GraphContext
from autotelic.graphs.refine import open_work
from autotelic.graphs.running import compiled
from autotelic.graphs.session import as_dicts
from autotelic.graphs.strategy_solver import how_found, reached
from autotelic.refinement import Meter, Price, Spent, build_strategy
from autotelic.serving import OnText, Sampling
from autotelic.serving.openai_wire import ChatRequest, said
from autotelic.ui.names import Named, read_name
from autotelic.ui.voices import Voices

__all__ = ["Answerer", "NoSuchModel", "Reply"]

_DEFAULT = Sampling(temperature=1.0)


class NoSuchModel(UsageError):
    """Nobody of that name answers here."""


@dataclass(frozen=True)
class Reply:
    """What came of a request."""

    choices: list[tuple[dict[str, Any], str]]
    """Message and reason of each answer, as OpenAI has them."""
    price: Price
    """Of all calls; of a graph that holds a model of its own, nothing but the time."""
    stopped: str = ""
    """What cut a strategy short, see `Answer.stopped`."""
    drafts: Sequence[Mapping[str, Any]] = ()
    """What a strategy made its answer of, see `how_found`."""
    policy: int | None = None
    """Number of the policy that answered, `None` for a remote model."""


class Answerer:
    """Answers chat requests.

    Args:
        voices: who can be asked; the budget of its context bounds an answer by a strategy or a graph.
        graphs: what `graph:NAME` may name, as `find_graph` found it.
    """

    def __init__(self, voices: Voices, graphs: Mapping[str, Any]) -> None:
        self._voices = voices
        self._context = voices.context
        self._graphs = dict(graphs)

    def names(self) -> list[str]:
        """Return what can be asked for, without strategies."""
        known = [f"policy-{number}" for number in self._voices.policies()[1]]
        return ["champion", *known, *(f"graph:{name}" for name in self._graphs)]

    @property
    def well(self) -> bool:
        """Whether there is a model that answers."""
        return not self._context.gateway.blocked

    def find(self, model: str) -> Named:
        """Return who is meant.

        Raises:
            NoSuchModel: nobody.
        """
        try:
            named = read_name(model)
        except UsageError as error:
            raise NoSuchModel(str(error)) from None
        asked = f"graph:{named.graph}" if named.graph is not None else f"policy-{named.policy}"
        if (named.graph, named.policy) != (None, None) and asked not in self.names():
            raise NoSuchModel(f"there is no {asked} here. There are: {', '.join(self.names())}.")
        return named

    async def answer(self, asked: ChatRequest, on_text: OnText | None = None) -> Reply:
        """Answer a request.

        Args:
            asked: the request.
            on_text: gets the answer's text as it is generated, or when it is done.

        Raises:
            NoSuchModel: nobody of that name answers.
            UsageError: the request cannot be answered as it is.
            ServingError: the model gave no answer.
        """
        named = self.find(asked.model)
        async with self._voices.speaking(named.policy) as policy:
            if named.graph is not None:
                reply = await self._by_graph(self._graphs[named.graph], asked)
            elif named.strategy is not None:
                reply = await self._by_strategy(named.strategy, asked)
            else:
                return replace(await self._itself(asked, on_text), policy=policy)
        if on_text is not None and (text := reply.choices[0][0]["content"]):
            on_text(text)
        return replace(reply, policy=policy)

    async def _itself(self, asked: ChatRequest, on_text: OnText | None) -> Reply:
        meter = Meter(self._context.gateway)
        apart = meter.backend.calls_apart
        default = replace(_DEFAULT, max_tokens=self._context.max_tokens)
        sampling = asked.sampling(default, apart=apart)
        live = None if sampling.tools else on_text  # a turn that may be a call is no text yet
        found = await meter.complete(asked.conversation(apart=apart), sampling, live)
        if len(found) < sampling.n:
            raise ServingError(f"{len(found)} of {sampling.n} answers came, then: {meter.tally.stopped}")
        choices = [said(completion, tools=bool(sampling.tools) and not apart) for completion in found]
        return Reply(choices, meter.tally.price)

    async def _by_strategy(self, strategy: str, asked: ChatRequest) -> Reply:
        _refuse(asked, "a strategy")
        messages = list(asked.conversation(apart=True))
        question = _question(messages)
        if messages[0].role != "system":
            messages.insert(0, Message(role="system", content=PLAIN))
        work = open_work(self._bounded(asked), messages, question)
        work = replace(work, temperature=asked.temperature or 0.0, seed=asked.seed or 0)
        found = await reached(build_strategy(strategy), work, partly=True)
        text = found.draft.text if found.text is None else found.text
        reason = "length" if found.text is None or found.stopped else "stop"
        return Reply([_text(text, reason)], found.price, found.stopped, how_found(found)["drafts"])

    def _bounded(self, asked: ChatRequest) -> GraphContext:
        most = asked.max_completion_tokens or asked.max_tokens or self._context.max_tokens
        return replace(self._context, max_tokens=most)

    async def _by_graph(self, graph: Any, asked: ChatRequest) -> Reply:
        _refuse(asked, "a graph")
        messages = list(asked.conversation(apart=True))
        question = _question(messages)
        meter = Meter(self._context.gateway, self._context.budget)
        made = compiled(graph, replace(self._bounded(asked), gateway=meter))
        takes = set(made.channels)
        given: dict[str, Any] = {}
        if "question" in takes:
            given["question"] = question
            if len(messages) > 1 and "messages" in takes:
                given["messages"] = as_dicts(messages[:-1])
        elif "messages" in takes:
            given["messages"] = [message.openai() for message in messages]
        else:
            raise UsageError("the graph takes neither a question nor messages. Give its state one of them.")
        try:
            state = await made.ainvoke(given)
        except Spent as bound:
            raise UsageError(f"the graph came to no answer within its budget of {bound}.") from None
        if state.get("__interrupt__"):
            raise UsageError("the graph waits for a person. Run it with `autotelic run`, where it can be answered.")
        reason = "length" if state.get("reason") == "truncated" else "stop"
        return Reply([_text(_answer_of(state), reason)], meter.tally.price)


def _refuse(asked: ChatRequest, whose: str) -> None:
    for name in ("tools", "response_format", "stop", "logprobs", "frequency_penalty", "presence_penalty", "logit_bias"):
        if getattr(asked, name):
            raise UsageError(f"{name} cannot be given to {whose}. Leave it out, or ask the policy itself.")
    if asked.n > 1:
        raise UsageError(f"n is {asked.n}; {whose} gives one answer. Leave it out.")


def _question(messages: Sequence[Message]) -> str:
    if messages[-1].role != "user" or not messages[-1].content.strip():
        raise UsageError("the last message has to be the user's, and not empty.")
    return messages[-1].content


def _text(text: str, reason: str) -> tuple[dict[str, Any], str]:
    return {"role": "assistant", "content": text}, reason


def _answer_of(state: Mapping[str, Any]) -> str:
    if isinstance(answer := state.get("answer"), str):
        return answer
    messages = state.get("messages") or []
    last = messages[-1] if messages else {"content": ""}
    content = last["content"] if isinstance(last, dict) else last.content
    return content if isinstance(content, str) else str(content)
