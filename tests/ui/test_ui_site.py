"""The browser app's pages over a finished simulated run and a large one; what is hostile in them stays text."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from autotelic.core.run_dir import RunDir
from autotelic.store import CritiqueRow, EpisodeRow, Ledger, NodeRow, ProposalRow, RunRow, TaskRow
from autotelic.ui.browse import PAGE, Runs, progress
from autotelic.ui.guard import Bounds, Guard
from autotelic.ui.site import COOKIE, TOKEN_HEADER, Site

KEY = "the key that was printed"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>[x](javascript:alert(3))"
Opened = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def episode_values(number: int) -> dict[str, Any]:
    """What differs from one trajectory to the next."""
    return {
        "id": f"e{number:06}", "round": number % 3, "family": f"family{number % 4}", "policy": number % 2,
        "score": float(number % 2), "reason": "ok" if number % 2 else "wrong",
    }  # fmt: skip


def episode(number: int) -> EpisodeRow:
    return EpisodeRow(
        task_id="t", sample=0, messages=[{"role": "user", "content": EVIL}], bare_messages=[], tools=[], turns=[],
        text=EVIL, finish_reason="stop", token_ids=[1, 2, 3], prompt_tokens=5, completion_tokens=3, answer=EVIL,
        memory_ids=[], seed=1, **episode_values(number),
    )  # fmt: skip


def make_run(root: Path, name: str, episodes: int) -> None:
    run = RunDir(root / name).create()
    ledger = Ledger(run.ledger)
    task = TaskRow(
        id="t", environment="e", family=EVIL, difficulty=0, question=EVIL, key="{}", answer=EVIL, seed=0, origin="suite"
    )
    config = {"rounds": 3, "seconds": 100}
    ledger.add([RunRow(id=name, seed=0, config=config, model_source="m", model_sha256="s"), task])
    first = episode(0).model_dump()
    with ledger.session() as session:
        for start in range(0, episodes, 5000):
            numbers = range(start, min(episodes, start + 5000))
            values = [first | episode_values(n) for n in numbers]
            session.connection().execute(insert(EpisodeRow.__table__), values)  # type: ignore[attr-defined]
    ledger.close()


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    @asynccontextmanager
    async def serve(key: str = KEY, cookie: str = KEY) -> AsyncIterator[httpx.AsyncClient]:
        hosts = frozenset({"127.0.0.1"})
        app = Guard(Site(Runs(tmp_path), key).app(), Bounds(hosts=hosts))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", cookies={COOKIE: cookie}
        ) as client:
            yield client

    return serve


async def test_who_has_the_key_is_let_in_once_and_for_all(opened: Opened, tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 1)
    async with opened(cookie="") as client:
        client.cookies.clear()
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/?key=wrong")).status_code == 401
        entered = await client.get(f"/runs/mine/trajectories?right=true&key={KEY}")
        assert entered.status_code == 303 and entered.headers["location"] == "/runs/mine/trajectories?right=true"
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/runs/mine/", "/runs/mine/status", "/runs/mine/trajectories", "/runs/mine/trajectories/e000001",
     "/runs/mine/trajectories/e000001?with=e000002", "/runs/mine/data", "/runs/mine/policies"],
)  # fmt: skip
async def test_what_a_model_wrote_is_text_on_every_page(opened: Opened, tmp_path: Path, path: str) -> None:
    make_run(tmp_path, "mine", 60)
    async with opened() as client:
        found = await client.get(path)
    assert found.status_code == 200
    assert "<script>alert" not in found.text and "<img" not in found.text and "onerror=alert(2)>" not in found.text
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    addresses = re.findall(r'(?:href|src|action)="([^"]*)"', found.text)
    assert all(address.startswith(("/", "?", "#")) for address in addresses), "nothing is asked of another host"


@pytest.mark.parametrize(
    "path",
    ["/runs/none/", "/runs/..%2Fmine/", "/runs/%2Fetc/", "/runs/mine/trajectories/none", "/runs/mine/report",
     "/runs/mine/trajectories?round=x", "/runs/mine/trajectories?round=99999999999999999999",
     "/runs/mine/trajectories?policy=-1", "/static/..%2Fsite.py", "/runs/.%2Fmine/"],
)  # fmt: skip
async def test_what_is_not_there_or_outside_is_not_found(opened: Opened, tmp_path: Path, path: str) -> None:
    make_run(tmp_path, "mine", 1)
    async with opened() as client:
        assert (await client.get(path)).status_code == 404


async def test_a_round_beyond_every_number_is_the_latest(opened: Opened, tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 1)
    async with opened() as client:
        for round in ("99999999999999999999", "9" * 5000):
            found = await client.get(f"/runs/mine/data?round={round}")
            assert found.status_code == 200 and "Data of round 0" in found.text


async def test_a_damaged_run_is_in_nobodys_way(opened: Opened, tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ledger.sqlite").write_bytes(b"this is no database" * 100)
    async with opened() as client:
        found = await client.get("/")
    assert found.status_code == 200 and 'href="/runs/mine/"' in found.text
    assert re.search(r"broken</th>.*cannot be opened: ", found.text)


def test_what_is_left_of_the_time_is_what_was_not_spent_on_nodes(tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 1)
    run = RunDir(tmp_path / "mine")
    with closing(Ledger(run.ledger)) as ledger:
        ledger.add(NodeRow(round=n, node="solve", seconds=s, detail={}) for n, s in ((0, 10), (1, 30)))
        row = ledger.rows(RunRow)[0]
        row.started_at -= 3600  # most of it between two starts
        ledger.put(row)
        assert progress(run, ledger).left == 60


@pytest.mark.e2e
async def test_a_hundred_thousand_trajectories_are_paged_in_the_ledger(opened: Opened, tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 100_000)
    async with opened() as client:
        seen: list[str] = []
        path = "/runs/mine/trajectories?family=family1&policy=1&right=true"
        for _ in range(3):
            text = (await client.get(path)).text
            seen += re.findall(r'trajectories/(e\d+)"', text)
            assert "25,000 match" in text
            (more,) = re.findall(r'rel="next" href="([^"]+)"', text)
            path = "/runs/mine/trajectories" + more.replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 3 * PAGE and seen == sorted(seen)


async def test_trajectories_are_found_by_who_wrote_them(opened: Opened, tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 4)
    ledger = Ledger(RunDir(tmp_path / "mine").ledger)
    ledger.add(
        ProposalRow(
            id=f"p{index}", round=1, index=index, origin="proposer", policy=1, seed=0, text=f"written {index}",
            messages=[{"role": "user", "content": "propose"}], reason="ok" if index else "broken",
            task_id="t" if index else None, family="family7" if index else "",
        )
        for index in range(2)
    )  # fmt: skip
    for index, verdict in enumerate(("right", "wrong", None)):
        row = CritiqueRow(trajectory_id=f"e00000{index}", round=1, policy=0, family="family1", truth=1.0, advice="look")
        ledger.add([row.model_copy(update={"verdict": verdict, "reason": "ok" if verdict else "cut_off"})])
    ledger.close()
    async with opened() as client:

        async def found(query: str) -> list[str]:
            text = (await client.get(f"/runs/mine/trajectories?{query}")).text
            return re.findall(r'trajectories/(\w+)"', text)

        assert await found("role=proposer") == ["p0", "p1"]
        assert await found("role=proposer&right=true&family=family7") == ["p1"]
        assert await found("role=proposer&right=false") == ["p0"]
        assert await found("role=critic") == ["e000000", "e000001", "e000002"]
        assert await found("role=critic&right=true") == ["e000000"]
        assert await found("role=critic&right=false") == ["e000001"], "one who says nothing is neither"
        assert await found("role=solver&round=1") == await found("round=1") == ["e000001"]
        assert (await client.get("/runs/mine/trajectories?role=nobody")).status_code == 404
        other = (await client.get("/runs/mine/trajectories?role=critic&reason=broken")).text
        assert "<option selected>broken</option>" in other and "0 match" in other, "what is looked for is shown"
        page = (await client.get("/runs/mine/trajectories/p0")).text
        assert "written 0" in page and "broken" in page and "proposer, policy-1" in page


async def test_a_page_of_another_site_may_not_ask(opened: Opened, tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 1)
    async with opened() as client:
        assert (await client.get("/", headers={"Origin": "https://evil.example"})).status_code == 403
        assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 403


class EchoChat:
    """The smallest chat: what was posted comes back."""

    def routes(self, site: Site) -> list[Route]:
        async def say(request: Request) -> Response:
            return PlainTextResponse(request.state.form.get("text", "nothing"))

        def read(request: Request) -> Response:
            return site.page("message", title="Chat", run=request.path_params["run"], here="chat", text="hello")

        path = "/runs/{run}/chat"
        return [
            Route(path, site.shown(read), methods=["GET"]),
            Route(path, site.shown(say), methods=["POST"]),
        ]


async def test_a_chat_is_mounted_behind_the_same_door(tmp_path: Path) -> None:
    make_run(tmp_path, "mine", 1)
    site = Site(Runs(tmp_path), KEY, chat=EchoChat())
    transport = httpx.ASGITransport(Guard(site.app(), Bounds()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/runs/mine/chat")).status_code == 401
        client.cookies.set(COOKIE, KEY)
        page = await client.get("/runs/mine/chat")
        assert page.status_code == 200 and 'href="/runs/mine/chat" aria-current="page"' in page.text
        assert (await client.post("/runs/mine/chat", data={"text": "a"})).status_code == 403
        assert (await client.post("/runs/mine/chat", data={"text": "a", "token": "wrong"})).status_code == 403
        assert (await client.post("/runs/mine/chat", data={"text": "a", "token": site.token})).text == "a"
        assert (await client.post("/runs/mine/chat", headers={TOKEN_HEADER: site.token})).text == "nothing"
