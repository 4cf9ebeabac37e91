from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from autotelic.core.errors import DeliveryError, ServingError, UsageError
from autotelic.core.words import Message
from autotelic.serving import (
    TOO_LONG,
    Gateway,
    LiteLLMBackend,
    LocalBackend,
    Refused,
    Sampling,
    ScriptedBackend,
    TooLong,
)
from autotelic.serving.chat_model import PolicyChatModel

ASK = [Message(role="user", content="two words")]


@pytest.fixture
async def gateway(bench: Any) -> AsyncIterator[Gateway]:
    await bench.server.start(bench.policy(0, 1.0))
    process = bench.server.server
    made = Gateway(LocalBackend(process.url, process.headers, "policy"), attempts=3, backoff=0.001)
    yield made
    await made.aclose()


def echo(messages: Sequence[Message], sampling: Sampling) -> list[str]:
    return [f"{messages[-1].content} {i}" for i in range(sampling.n)]


async def test_a_completion_has_what_the_server_says(gateway: Gateway) -> None:
    gateway.unblock(4)
    found = await gateway.complete(ASK, Sampling(n=2, logprobs=True))
    assert len(found) == 2
    assert found[0].token_ids == (1, 2, 3) and found[0].logprobs == (-0.5, -0.5, -0.5)
    assert (found[0].prompt_tokens, found[0].cached_tokens, found[0].completion_tokens, found[0].policy) == (7, 4, 3, 4)
    counters = gateway.counters
    assert (counters.calls, counters.prompt_tokens, counters.completion_tokens) == (1, 7, 6)


async def test_an_answer_goes_on_and_its_end_is_the_empty_text(bench: Any) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    process = bench.server.server
    made = Gateway(LocalBackend(process.url, process.headers, "policy", controls=["<end>"]))
    begun = [*ASK, Message(role="assistant", content="so far: ")]
    (found,) = await made.complete(begun, Sampling(alternatives=3, unfinished=True))
    assert found.text.startswith("so far: ")
    assert found.alternatives == ({"a": -0.5, "": -2.5},) * 3 and found.logprobs == (-0.5,) * 3
    await made.aclose()


@pytest.mark.parametrize(
    ("sampling", "sent"),
    [
        (Sampling(schema={"type": "object"}), '{"json": {"type": "object"}}'),
        (Sampling(choices=("a", "b")), '{"choice": ["a", "b"]}'),
        (Sampling(regex="[0-9]"), '{"regex": "[0-9]"}'),
        (Sampling(grammar="root ::= [0-9]"), '{"grammar": "root ::= [0-9]"}'),
        (Sampling(), "null"),
    ],
)
async def test_guided_decoding_reaches_the_server(gateway: Gateway, sampling: Sampling, sent: str) -> None:
    assert (await gateway.complete(ASK, sampling))[0].text.endswith(sent)


async def test_an_answer_can_be_heard_as_it_is_said(gateway: Gateway, bench: Any) -> None:
    (whole,) = await gateway.complete(ASK)
    heard: list[str] = []
    (streamed,) = await gateway.complete(ASK, None, heard.append)
    assert len(heard) == 2 and "".join(heard) == whole.text
    assert streamed == whole and gateway.counters.calls == 2
    bench.set("fail", "1")
    heard.clear()
    assert await gateway.complete(ASK, None, heard.append) == [whole]
    assert len(heard) == 2 and gateway.counters.retries == 1, "nothing was heard of the attempt that failed"
    bench.set("refuse", "")
    with pytest.raises(ServingError, match="refused"):
        await gateway.complete(ASK, None, heard.append)


async def test_what_was_heard_is_not_said_twice(gateway: Gateway, bench: Any) -> None:
    bench.set("cut", "")
    heard: list[str] = []
    with pytest.raises(ServingError, match="no answer from the model in 1 attempts; the last: the answer broke off"):
        await gateway.complete(ASK, None, heard.append)
    assert len(heard) == 1


async def test_a_back_end_that_cannot_stream_is_heard_at_once() -> None:
    heard: list[str] = []
    await Gateway(ScriptedBackend(echo)).complete(ASK, None, heard.append)
    assert heard == ["two words 0"]


async def test_errors_of_the_server_are_tried_again(gateway: Gateway, bench: Any) -> None:
    bench.set("fail", "2")
    assert await gateway.complete(ASK)
    assert gateway.counters.retries == 2


async def test_attempts_are_bounded(gateway: Gateway, bench: Any) -> None:
    bench.set("fail", "3")
    with pytest.raises(ServingError, match="3 attempts"):
        await gateway.complete(ASK)
    assert gateway.counters.calls == 0


async def test_no_completion_is_no_answer() -> None:
    gateway = Gateway(ScriptedBackend(lambda messages, sampling: []), attempts=2, backoff=0)
    gateway.unblock(0)
    with pytest.raises(ServingError, match="2 attempts; the last: an answer without any completion"):
        await gateway.complete(ASK)


async def test_a_refused_request_is_not_tried_again(gateway: Gateway, bench: Any) -> None:
    bench.set("refuse")
    with pytest.raises(ServingError, match="status 400"):
        await gateway.complete(ASK)
    assert gateway.counters.retries == 0


async def test_a_prompt_without_room_for_an_answer_is_told_apart(gateway: Gateway, bench: Any) -> None:
    bench.set("refuse", "This model's maximum context length is 2048 tokens. However, you requested 2049")
    with pytest.raises(TooLong, match=r"serving\.max_model_len"):
        await gateway.complete(ASK)
    found = await gateway.attempt(ASK, Sampling(n=2))
    assert [(one.text, one.finish_reason) for one in found] == [("", TOO_LONG)] * 2
    bench.set("refuse", "no such schema")
    with pytest.raises(Refused, match="no such schema"):
        await gateway.attempt(ASK, Sampling())


async def test_a_lost_connection_is_tried_again_then_reported(gateway: Gateway, bench: Any) -> None:
    await bench.server.stop()
    with pytest.raises(ServingError, match="ConnectError"):
        await gateway.complete(ASK)
    assert gateway.counters.retries == 2


async def test_recovery_happens_between_attempts(bench: Any) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    process, calls = bench.server.server, []

    async def recover() -> None:
        calls.append(1)

    made = Gateway(LocalBackend(process.url, process.headers, "policy"), backoff=0.001, recover=recover)
    bench.set("fail", "1")
    assert await made.complete(ASK)
    assert calls == [1]
    await made.aclose()


async def test_the_limiter_bounds_what_is_in_flight() -> None:
    running, most = 0, 0

    async def script(_: Sequence[Message], sampling: Sampling) -> list[str]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return ["x"] * sampling.n

    gateway = Gateway(ScriptedBackend(script), concurrency=3)
    await asyncio.gather(*[gateway.complete(ASK) for _ in range(20)])
    assert most == 3 and gateway.counters.calls == 20


async def test_a_writer_waits_for_readers_and_holds_new_ones() -> None:
    events: list[str] = []
    release = asyncio.Event()

    async def script(messages: Sequence[Message], _: Sampling) -> list[str]:
        name = messages[0].content
        events.append(f"{name} in")
        if name == "early":
            await release.wait()
        events.append(f"{name} out")
        return [name]

    made = Gateway(ScriptedBackend(script))

    async def write() -> None:
        async with made.writing():
            events.append("write in")
            await asyncio.sleep(0)
            events.append("write out")

    def ask(name: str) -> asyncio.Task[Any]:
        return asyncio.create_task(made.complete([Message(role="user", content=name)]))

    early = ask("early")
    await asyncio.sleep(0)
    writer = asyncio.create_task(write())
    await asyncio.sleep(0)
    late = ask("late")
    await asyncio.sleep(0)
    assert events == ["early in"]
    release.set()
    await asyncio.gather(early, writer, late)
    assert events == ["early in", "early out", "write in", "write out", "late in", "late out"]


async def test_a_blocked_gateway_refuses_until_it_is_unblocked() -> None:
    gateway = Gateway(ScriptedBackend(echo))
    gateway.block("no proof")
    with pytest.raises(DeliveryError, match="no proof"):
        await gateway.complete(ASK)
    gateway.unblock(3)
    assert (await gateway.complete(ASK))[0].policy == 3


@pytest.mark.parametrize("wrong", [{"n": 0}, {"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}])
def test_impossible_sampling_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="impossible"):
        Sampling(**wrong)


def test_two_guides_are_refused() -> None:
    with pytest.raises(UsageError, match="choices and regex"):
        Sampling(choices=("a",), regex="a")


async def test_litellm_reaches_an_openai_compatible_server(bench: Any) -> None:
    await bench.server.start(bench.policy(0, 1.0))
    process = bench.server.server
    backend = LiteLLMBackend("openai/policy", base_url=f"{process.url}/v1", api_key=process.key)
    made = Gateway(backend, attempts=2, backoff=0.001)
    found = await made.complete(ASK, Sampling(n=3))
    assert len(found) == 3 and found[0].text.startswith("1.0") and found[0].policy is None
    assert sum(c.completion_tokens for c in found) == 9
    bench.set("refuse")
    with pytest.raises(ServingError, match="refused"):
        await made.complete(ASK)
    with pytest.raises(UsageError, match="choices"):
        await made.complete(ASK, Sampling(choices=("a",)))


async def test_a_remote_stream_that_breaks_off_is_an_answer_that_did_not_come() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\ndata: ")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    made = Gateway(LiteLLMBackend("openai/policy", base_url=url, api_key="none"), attempts=2, backoff=0.001)
    with pytest.raises(ServingError, match="in 2 attempts"):
        await made.complete(ASK, Sampling(), lambda _: None)
    server.close()


async def test_langchain_runs_on_the_gateway() -> None:
    gateway = Gateway(ScriptedBackend(echo))
    gateway.unblock(2)
    model = PolicyChatModel(gateway=gateway, max_tokens=9)
    answer = await model.ainvoke([SystemMessage("be brief"), HumanMessage("hello")])
    assert answer.content == "hello 0" and answer.response_metadata["policy"] == 2
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == 2
    with pytest.raises(UsageError, match="ainvoke"):
        model.invoke("hello")
    with pytest.raises(UsageError, match="cannot be sent"):
        await model.ainvoke([HumanMessage([{"type": "text", "text": "parts"}])])


async def test_langchain_binds_a_schema() -> None:
    seen: list[Sampling] = []

    def script(_: Sequence[Message], sampling: Sampling) -> list[str]:
        seen.append(sampling)
        return ["{}"]

    model = PolicyChatModel(gateway=Gateway(ScriptedBackend(script)), temperature=0.5)
    await model.guided_by({"type": "object"}).ainvoke("x", stop=["\n"])
    assert seen[0].schema == {"type": "object"} and seen[0].temperature == 0.5 and seen[0].stop == ("\n",)
