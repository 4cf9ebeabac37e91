"""What is refused before anybody answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.ui.conftest import KEY, Model

from autotelic.core.errors import UsageError
from autotelic.ui import Address, keys_of
from autotelic.ui.guard import Bounds, Guard

Served = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
CHAT = {"model": "champion", "messages": [{"role": "user", "content": "hello"}]}
PATH = "/v1/chat/completions"


@pytest.mark.parametrize(
    "key", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY]
)
@pytest.mark.parametrize("path", [PATH, "/v1/models", "/metrics", "/nowhere"])
async def test_without_the_key_nothing_is_told(served: Served, model: Model, key: str, path: str) -> None:
    async with served() as client:
        found = await client.post(path, json=CHAT, headers={"Authorization": key})
        assert found.status_code == 401 and found.json()["error"]["type"] == "authentication_error"
        assert (await client.get("/health", headers={"Authorization": ""})).status_code == 200
    assert not model.asked


async def test_each_of_several_keys_opens(served: Served) -> None:
    async with served(keys=(KEY, "another key of some length")) as client:
        for key in (KEY, "another key of some length"):
            found = await client.post(PATH, json=CHAT, headers={"Authorization": f"bearer {key}"})
            assert found.status_code == 200


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:9999"}, False),
        ({"Origin": "http://127.0.0.1:8000"}, True),
        ({"Origin": "https://mine.example"}, True),
        ({"Host": "evil.example"}, False),
        ({"Host": "127.0.0.1.evil.example:8000"}, False),
        ({"Host": ""}, False),
        ({"Host": "localhost:8000"}, True),
        ({"Host": "[::1]:8000"}, True),
    ],
)
async def test_pages_of_others_may_not_ask(served: Served, model: Model, headers: dict[str, str], passes: bool) -> None:
    hosts = frozenset({"127.0.0.1", "localhost", "[::1]"})
    async with served(hosts=hosts, origins=frozenset({"https://mine.example"})) as client:
        found = await client.post(PATH, json=CHAT, headers=headers)
    assert found.status_code == (200 if passes else 403)
    assert len(model.asked) == int(passes)


async def test_a_page_that_may_ask_can_read_the_answer(served: Served, model: Model) -> None:
    mine, before = "https://mine.example", {"Access-Control-Request-Method": "POST", "Authorization": ""}
    async with served(origins=frozenset({mine})) as client:
        asked = await client.options(PATH, headers={"Origin": mine, **before})
        assert asked.status_code == 204 and "authorization" in asked.headers["access-control-allow-headers"]
        found = await client.post(PATH, json=CHAT, headers={"Origin": mine})
        wrong = await client.post(PATH, json=CHAT, headers={"Origin": mine, "Authorization": "Bearer wrong"})
        assert (found.status_code, wrong.status_code) == (200, 401)
        assert all(one.headers["access-control-allow-origin"] == mine for one in (asked, found, wrong))
        other = await client.options(PATH, headers={"Origin": "https://evil.example", **before})
        assert other.status_code == 403 and "access-control-allow-origin" not in other.headers
    assert len(model.asked) == 1


async def test_what_is_open_to_all_takes_nothing(served: Served) -> None:
    async with served() as client:
        assert (await client.get("/health", headers={"Authorization": ""})).status_code == 200
        assert (await client.post("/health", content=b"x" * 1000, headers={"Authorization": ""})).status_code == 413


async def test_a_request_of_a_hundred_megabytes_is_refused(served: Served, model: Model) -> None:
    read = 0

    async def much() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 2**20

    async with served() as client:
        told = await client.post(PATH, content=b"x", headers={"Content-Length": str(100 * 2**20)})
        assert told.status_code == 413
        found = await client.post(PATH, content=much())
        assert found.status_code == 413 and "1048576 bytes" in found.json()["error"]["message"]
        assert (await client.post(PATH, json=CHAT)).status_code == 200
    assert len(model.asked) == 1


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_each_key_has_a_rate_of_its_own() -> None:
    now = [100.0]
    guard = Guard(_nothing, Bounds(keys=("one", "two"), rate=60, burst=3), clock=lambda: now[0])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://here") as client:

        async def ask(key: str) -> httpx.Response:
            return await client.get("/", headers={"Authorization": f"Bearer {key}"})

        assert [(await ask("one")).status_code for _ in range(4)] == [204, 204, 204, 429]
        assert (await ask("one")).headers["retry-after"] == "2"
        assert (await ask("two")).status_code == 204
        now[0] += 1.5
        assert [(await ask("one")).status_code for _ in range(2)] == [204, 429]
        now[0] += 1000
        assert [(await ask("one")).status_code for _ in range(4)] == [204, 204, 204, 429]
        wrong = [(await ask("three")).status_code for _ in range(5)]
        assert wrong == [401] * 5, "who has no key uses up nobody's rate"


def test_keys_come_from_a_file_or_are_made(tmp_path: Path) -> None:
    assert len(keys_of(None)[0]) >= 24 and keys_of(None) != keys_of(None)
    file = tmp_path / "keys"
    file.write_text("# mine\n0123456789abcdef\n\nfedcba9876543210\n")
    assert keys_of(file) == ("0123456789abcdef", "fedcba9876543210")
    for text, says in (("", "there is none"), ("short\n", "fewer than 16")):
        file.write_text(text)
        with pytest.raises(UsageError, match=says):
            keys_of(file)
    with pytest.raises(UsageError, match="cannot be read"):
        keys_of(tmp_path / "none")


def test_other_machines_are_let_in_with_a_key_only() -> None:
    Address("0.0.0.0", keys=(KEY,))
    Address("::1")
    with pytest.raises(UsageError, match="can be reached from other machines"):
        Address("0.0.0.0")
