"""What OpenAI's clients ask and get, against a scripted model that says which policy it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr
from tests.ui.conftest import KEY, Model, Run

from autotelic.core.errors import ServingError
from autotelic.serving import Gateway

Served = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
PATH = "/v1/chat/completions"
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}


def chat(content: str = "hello", model: str = "champion", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def events(text: str) -> list[Any]:
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert found[-1] == "[DONE]"
    return [json.loads(line) for line in found[:-1]]


async def test_an_answer_says_who_gave_it_and_what_it_cost(served: Served) -> None:
    async with served() as client:
        found = (await client.post(PATH, json=chat("one two"))).json()
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "policy-0 heard: one two"}
    assert choice["finish_reason"] == "stop" and found["system_fingerprint"] == "policy-0"
    assert found["usage"].pop("prompt_tokens_details") == {"cached_tokens": 0}
    assert found["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


async def test_the_request_reaches_the_model_as_it_was_asked(served: Served, model: Model) -> None:
    given = {
        "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": "END", "max_completion_tokens": 9, "n": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    }  # fmt: skip
    async with served() as client:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        messages = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
        found = (await client.post(PATH, json={"model": "champion", "messages": messages, **given})).json()
    ((messages_sent, sampling),) = model.asked
    assert [(m.role, m.content) for m in messages_sent] == [("system", "be kind"), ("user", "ab")]
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.stop) == (0.5, 0.9, 7, ("END",))
    assert (sampling.max_tokens, sampling.n, sampling.schema) == (9, 3, {"type": "object"})
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]


async def test_a_stream_is_the_answer_in_pieces(served: Served) -> None:
    async with served() as client:
        asked = chat("one two", stream=True, stream_options={"include_usage": True})
        found = await client.post(PATH, json=asked)
    assert found.headers["content-type"].startswith("text/event-stream")
    pieces = events(found.text)
    said = [piece["choices"][0]["delta"].get("content", "") for piece in pieces if piece["choices"]]
    assert "".join(said) == "policy-0 heard: one two" and len([text for text in said if text]) == 4
    assert len({piece["id"] for piece in pieces}) == 1
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None] * 4 + ["stop"]
    assert pieces[-1]["choices"] == [] and pieces[-1]["usage"]["completion_tokens"] == 4


async def test_policies_take_turns_in_one_server(served: Served, model: Model, run: Run) -> None:
    run.champion = 1
    async with served() as client:
        wanted = ["champion", "policy-0", "policy-2", "champion", "policy-1", "policy-0"] * 5
        found = await asyncio.gather(*(client.post(PATH, json=chat(f"{i}", name)) for i, name in enumerate(wanted)))
    for index, (name, answer) in enumerate(zip(wanted, found, strict=True)):
        number = {"champion": 1, "policy-0": 0, "policy-1": 1, "policy-2": 2}[name]
        body = answer.json()
        assert body["choices"][0]["message"]["content"] == f"policy-{number} heard: {index}"
        assert body["system_fingerprint"] == f"policy-{number}"
    assert len(model.delivered) < len(wanted) / 2


async def test_a_promotion_in_the_middle_drops_nothing(served: Served, model: Model, run: Run) -> None:
    async with served() as client:
        model.pause.clear()
        old = [asyncio.create_task(client.post(PATH, json=chat(f"{i}"))) for i in range(8)]
        while len(model.asked) < 8:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        run.champion = 2
        new = [asyncio.create_task(client.post(PATH, json=chat(f"{i}"))) for i in range(8)]
        await asyncio.sleep(0.01)
        assert model.policy == 0
        model.pause.set()
        said = [answer.json()["system_fingerprint"] for answer in await asyncio.gather(*old, *new)]
    assert said == ["policy-0"] * 8 + ["policy-2"] * 8


async def test_a_strategy_answers_at_the_price_of_all_its_calls(served: Served, model: Model) -> None:
    async with served() as client:
        found = (await client.post(PATH, json=chat("x", "champion:self-consistency-4"))).json()
        streamed = await client.post(PATH, json=chat("x", "policy-0:best_of(n=2, by='critic')", stream=True))
    assert found["choices"][0]["message"]["content"] == "policy-0 heard: x"
    assert found["usage"]["completion_tokens"] >= 3 * 2 and [s.n for _, s in model.asked[:2]] == [1, 2]
    assert "policy-0 heard: x" in streamed.text
    told = found["autotelic"]
    assert (told["calls"], told["stopped"]) == (2, "") and len(told["drafts"]) == 3 and told["seconds"] >= 0
    assert {draft["by"] for draft in told["drafts"]} == {"direct"}
    assert found["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert '"autotelic": {"calls": ' in streamed.text


async def test_the_budget_bounds_what_a_caller_may_cost(served: Served, model: Model) -> None:
    async with served() as client:
        found = (await client.post(PATH, json=chat("x", "champion:mixture(n=3, layers=40)"))).json()
    assert len(model.asked) == 16
    assert found["autotelic"]["stopped"] == "calls" and found["choices"][0]["finish_reason"] == "length"


async def test_fewer_answers_than_were_asked_for_are_none(
    served: Served, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = model.complete, list[int]()

    async def first_only(messages: Any, sampling: Any, policy: int | None) -> Any:
        calls.append(sampling.n)
        if len(calls) > 1:
            raise ServingError("gone")
        return (await whole(messages, sampling, policy))[:1]

    monkeypatch.setattr(model, "complete", first_only)
    async with served() as client:
        found = await client.post(PATH, json=chat("x", n=3))
    assert calls == [3, 2] and found.status_code == 503
    assert "1 of 3 answers came, then: ServingError: gone" in found.json()["error"]["message"]


async def test_a_graph_answers(served: Served, model: Model) -> None:
    async with served() as client:
        await client.post(PATH, json=chat("2 + 2", model="graph:solve", max_tokens=9))
        assert model.asked.pop()[1].max_tokens == 9
        found = (await client.post(PATH, json=chat("what is it", "graph:solve"))).json()
        assert found["choices"][0]["message"]["content"] == "policy-0 heard: what is it"
        assert found["usage"]["total_tokens"] > 0
        talk = [{"role": role, "content": word} for role, word in (("user", "a"), ("assistant", "b"), ("user", "c"))]
        await client.post(PATH, json={"model": "graph:solve", "messages": talk})
    assert [m.content for m in model.asked[-1][0]] == ["a", "b", "c"]


async def test_calls_of_tools_go_out_and_results_come_in(served: Served, model: Model) -> None:
    asked = chat("add them", tools=[ADD], tool_choice="required")
    async with served() as client:
        first = (await client.post(PATH, json=asked)).json()["choices"][0]
        assert first["finish_reason"] == "tool_calls" and first["message"]["content"] is None
        (call,) = first["message"]["tool_calls"]
        assert call["function"]["name"] == "add" and json.loads(call["function"]["arguments"]) == {"a": 1, "b": 2}
        result = {"role": "tool", "content": "3", "tool_call_id": call["id"]}
        again = {**asked, "tool_choice": "auto", "messages": [*asked["messages"], first["message"], result]}
        last = (await client.post(PATH, json=again)).json()["choices"][0]
        streamed = events((await client.post(PATH, json={**asked, "stream": True})).text)
    assert last["message"]["content"] == "got 3" and last["finish_reason"] == "stop"
    told = model.asked[1][0]
    assert [m.role for m in told] == ["user", "assistant", "tool"]
    assert json.loads(told[1].content) == {"calls": [{"tool": "add", "arguments": {"a": 1, "b": 2}}]}
    assert streamed[0]["choices"][0]["delta"]["tool_calls"][0]["index"] == 0


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "the request cannot be read"),
        (b"{}", 400, "messages"),
        (b'{"messages": [], "model": "champion"}', 400, "messages"),
        (b'{"messages": [{"role": "king", "content": ""}]}', 400, "messages.0.role"),
        (json.dumps(chat(model="gpt-4o")).encode(), 404, "there is no model 'gpt-4o'"),
        (json.dumps(chat(model="policy-7")).encode(), 404, "there is no policy-7 here"),
        (json.dumps(chat(model="graph:/etc/passwd")).encode(), 404, "there is no graph:/etc/passwd"),
        (json.dumps(chat(model="graph:evil.py:graph")).encode(), 404, "there is no graph:evil.py:graph"),
        (json.dumps(chat(temperature=-1)).encode(), 400, "temperature=-1"),
        (json.dumps(chat(n=2, stream=True)).encode(), 400, "a stream holds one answer"),
        (json.dumps(chat(logprobs=True)).encode(), 400, "logprobs"),
        (json.dumps(chat(logprobs=True, model="champion:direct")).encode(), 400, "logprobs"),
        (json.dumps(chat(presence_penalty=1.5)).encode(), 400, "presence_penalty"),
        (json.dumps(chat(logit_bias={"5": 100})).encode(), 400, "logit_bias"),
        (json.dumps(chat(tools=[ADD], response_format={"type": "json_object"})).encode(), 400, "together with tools"),
        (json.dumps(chat(tools=[{"type": "function"}])).encode(), 400, "tools"),
        (json.dumps(chat(model="champion:direct", tools=[ADD])).encode(), 400, "tools cannot be given"),
        (json.dumps(chat(model="champion:best_of(by='checker')")).encode(), 400, "checker"),
        (json.dumps(chat(" ", model="graph:solve")).encode(), 400, "not empty"),
    ],
)
async def test_what_cannot_be_answered_says_why(served: Served, body: bytes, status: int, says: str) -> None:
    async with served() as client:
        found = await client.post(PATH, content=body)
        assert found.status_code == status
        assert says in found.json()["error"]["message"]
        assert (await client.post(PATH, json=chat())).status_code == 200


async def test_a_failure_before_the_first_word_of_a_stream_has_its_status(served: Served, model: Model) -> None:
    async def broken(*_: Any) -> Any:
        raise ValueError("a secret detail")

    model.stream = broken  # type: ignore[method-assign, assignment]
    async with served() as client:
        found = await client.post(PATH, json=chat(stream=True))
    assert found.status_code == 500 and "secret" not in found.text


async def test_whoever_watches_the_server_sees_that_nobody_answers(served: Served, gateway: Gateway) -> None:
    async with served() as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        gateway.block("the model server died, at /a/secret/place")
        found = await client.get("/health")
        assert found.status_code == 503 and "secret" not in found.text


async def test_an_answer_without_tools_is_not_asked_for_as_a_turn(served: Served, model: Model) -> None:
    said = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "one"}, {"role": "user", "content": "2"}]
    async with served() as client:
        await client.post(PATH, json=chat() | {"messages": said, "tools": [ADD], "tool_choice": "none"})
    assert [message.content for message in model.asked[0][0]] == ["1", "one", "2"]


async def test_models_and_metrics(served: Served, run: Run) -> None:
    async with served() as client:
        names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        assert names == ["champion", "policy-0", "policy-1", "policy-2", "graph:solve", "graph:refine"]
        assert (await client.get("/v1/models/champion:direct")).json()["id"] == "champion:direct"
        assert (await client.get("/v1/models/policy-9")).status_code == 404
        await client.post(PATH, json=chat("one two", stream=True))
        await client.post(PATH, json=chat(model="nobody\n# forged 1"))
        await client.post(PATH, json=chat(model="champion:direct # forged"))
        text = (await client.get("/metrics")).text
    assert 'autotelic_requests_total{model="champion",status="200"} 1.0' in text
    assert 'autotelic_requests_total{model="unknown",status="404"} 1.0' in text and "forged" not in text
    assert 'autotelic_tokens_total{kind="completion"} 7.0' in text
    assert 'autotelic_first_text_seconds_count{model="champion"} 1.0' in text
    assert "autotelic_requests_running 0.0" in text


@pytest.fixture
async def address(app: Callable[..., Any]) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(app(), port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    await serving


async def test_openais_own_client(address: str) -> None:
    from openai import AsyncOpenAI, AuthenticationError, NotFoundError

    async with AsyncOpenAI(base_url=address, api_key=KEY, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "one two"}]
        whole = await client.chat.completions.create(model="policy-2", messages=messages)
        assert whole.choices[0].message.content == "policy-2 heard: one two"
        stream = await client.chat.completions.create(model="champion", messages=messages, stream=True)
        assert "".join([p.choices[0].delta.content or "" async for p in stream]) == "policy-0 heard: one two"
        assert "champion" in [model.id async for model in client.models.list()]
        with pytest.raises(NotFoundError):
            await client.chat.completions.create(model="gpt-4o", messages=messages)
    async with AsyncOpenAI(base_url=address, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.models.list()


async def test_langchains_client(address: str) -> None:
    from langchain_openai import ChatOpenAI

    made = ChatOpenAI(model="champion", base_url=address, api_key=SecretStr(KEY), max_retries=0)
    assert (await made.ainvoke("one two")).content == "policy-0 heard: one two"
    assert "".join([str(piece.content) async for piece in made.astream("one two")]) == "policy-0 heard: one two"
    with_tools = await made.bind_tools([ADD]).ainvoke("add them")
    assert with_tools.tool_calls[0]["args"] == {"a": 1, "b": 2}


async def test_curl(address: str) -> None:
    command = ["curl", "-sN", f"{address}/chat/completions", "-H", f"Authorization: Bearer {KEY}", "-d"]
    running = await asyncio.create_subprocess_exec(
        *command, json.dumps(chat("one two", stream=True)), stdout=asyncio.subprocess.PIPE
    )
    text, _ = await running.communicate()
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in events(text.decode())) == (
        "policy-0 heard: one two"
    )


async def test_who_hangs_up_stops_being_answered(address: str, model: Model) -> None:
    model.pause.clear()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as client:
        for asked in (chat(), chat(stream=True), chat(stream=True, model="champion:self-refine")):
            with pytest.raises(httpx.ReadTimeout):
                await client.post(f"{address}/chat/completions", json=asked, timeout=httpx.Timeout(5, read=0.2))
        for _ in range(2000):
            text = (await client.get(f"{address.removesuffix('/v1')}/metrics")).text
            if "autotelic_requests_running 0.0" in text:
                break
            await asyncio.sleep(0.01)
        assert "autotelic_requests_running 0.0" in text, "the model has not said a word yet"
        model.pause.set()
