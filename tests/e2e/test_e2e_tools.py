"""The real model with tools: calls held to their schemas, and trained tokens that are the served ones."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from autotelic.agents import Bounds, ToolLoop
from autotelic.core.words import Message, PolicyFiles, Role, TrainingExample
from autotelic.serving import PolicyServer, Sampling, ServingConfig, resolve_model
from autotelic.tools import ToolsConfig, open_toolbox
from autotelic.training import Trainer
from autotelic.training.sft import tokenize

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SHOWN = (
    ("What is 31 * 12?", '{"calls":[{"tool":"python","arguments":{"code":"31 * 12"}}]}', "372"),
    ("What is 905 - 77?", '{"calls":[{"tool":"python","arguments":{"code":"905 - 77"}}]}', "828"),
    ("What is 64 + 189?", '{"calls":[{"tool":"python","arguments":{"code":"64 + 189"}}]}', "253"),
)


def prompt(question: str) -> list[Message]:
    messages = [Message(role="system", content="Answer with the number only.")]
    for asked, called, told in SHOWN:
        messages += [Message(role="user", content=asked), Message(role="assistant", content=called)]
        messages += [Message(role="tool", content=told), Message(role="assistant", content=f'{{"answer":"{told}"}}')]
    return [*messages, Message(role="user", content=question)]


async def test_the_small_model_calls_tools_and_what_is_trained_is_what_was_served(tmp_path: Path) -> None:
    model = resolve_model()
    async with Trainer(tmp_path / "trainer.log") as trainer:
        base = await trainer.prepare_base(Path(model.path))
    server = PolicyServer(ServingConfig(), log=tmp_path / "vllm.log")
    served: list[dict[str, Any]] = []
    try:
        await server.start(PolicyFiles(number=0, path=model.path, sha256=base.sha256, canary=base.canary))
        backend: Any = server.gateway.backend
        post = backend.post

        async def watched(path: str, body: Any = None, **query: str) -> Any:
            answer = await post(path, body, **query)
            served.append(answer)
            return answer

        backend.post = watched
        async with open_toolbox(ToolsConfig(use=("python", "calculator"))) as toolbox:
            loop = ToolLoop(server.gateway, toolbox, Bounds(calls=2, turns=4, call_first=True))
            questions = [f"What is {17 + 3 * i} * {29 + 7 * i}?" for i in range(16)]
            sampling = Sampling(max_tokens=64, seed=3)
            talks = await asyncio.gather(*(loop.answer(prompt(question), sampling) for question in questions))
            pieces: list[str] = []
            greedy = Sampling(max_tokens=24, temperature=0.0)
            ask = [Message(role="user", content="Name three colours.")]
            (whole,) = await server.gateway.complete(ask, greedy)
            (streamed,) = await server.gateway.complete(ask, greedy, pieces.append)
            served.clear()
            (single,) = [await loop.answer(prompt("What is 23 * 45?"), Sampling(max_tokens=64, temperature=0.0))]
    finally:
        await server.stop()

    for talk in talks:
        assert talk.calls, "the first turn has to be a call"
        for turn in talk.turns[: 1 if talk.reason == "truncated" else None]:
            if turn.completion.finish_reason == "stop":
                assert json.loads(turn.completion.text).keys() <= {"calls", "answer"}
        assert {record.call.name for record in talk.calls} <= {"python", "calculator"}
        assert not {record.result.reason for record in talk.calls} & {"unknown", "bad_arguments"}
    worked = [record for talk in talks for record in talk.calls if record.result.ok]
    assert len(worked) >= 8, "most calls do something"

    assert len(pieces) > 5 and "".join(pieces) == whole.text
    assert streamed.model_copy(update={"cached_tokens": whole.cached_tokens}) == whole, "token ids and counts too"
    assert single.reason == "ok" and len(single.turns) >= 2 and len(served) == len(single.turns)
    example = TrainingExample(
        id="x",
        role=Role.SOLVER,
        messages=tuple(prompt("What is 23 * 45?")),
        tools=loop.offered,
        turns=tuple(single.messages[len(prompt("")) : -1]),
        completion=single.messages[-1].content,
    )
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    rows = tokenize(tokenizer, example)
    assert len(rows) == len(served)
    for row, answer in zip(rows, served, strict=True):
        assert list(row.prompt) == answer["prompt_token_ids"], "the template that serves is the one that trains"
        assert tokenizer.decode(row.completion) == tokenizer.decode(answer["choices"][0]["token_ids"])
    assert "python" in tokenizer.decode(rows[0].prompt) and "tool\n" in tokenizer.decode(rows[-1].prompt)
