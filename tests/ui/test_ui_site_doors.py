"""Who tries to get at the browser app from outside, or to have it do what nobody meant."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from tests.ui.test_ui_site import EVIL, KEY, make_run

from autotelic.core.run_dir import RunDir
from autotelic.graphs.oversight import answer, request
from autotelic.memory import Lesson, Memory, Skill
from autotelic.memory.langchain import LangChainEmbedder
from autotelic.store import (
    AlarmRow,
    ApprovalRow,
    CritiqueRow,
    CurationRow,
    DecisionRow,
    DeliveryRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    SkillRow,
    ToolCallRow,
)
from autotelic.ui.browse import Runs
from autotelic.ui.guard import Bounds, Guard
from autotelic.ui.site import COOKIE, TOKEN_HEADER, Site

ORIGIN = "http://127.0.0.1"
IDS = {"run": "mine", "id": "e000001", "name": "app.css"}
WAITING = {"kind": EVIL, "subject": EVIL, "question": {"ask": EVIL, EVIL: [EVIL, {EVIL: EVIL}], "n": [1, 0.5, None]}}


def fill(root: Path) -> None:
    """Put something hostile into every field that a page shows."""
    run = RunDir(root / "mine")
    with closing(Ledger(run.ledger)) as ledger:
        request(ledger, **WAITING)  # type: ignore[arg-type]
        made = request(ledger, EVIL, EVIL, {"ask": EVIL, "other": EVIL})
        answer(ledger, made.id, True, by=EVIL, why=EVIL)
        ledger.add(
            [
                PolicyRow(number=0, round=0, state="champion", path="p", sha256=EVIL, method=EVIL, card={EVIL: EVIL}),
                PolicyRow(number=1, parent=0, round=1, state="rejected", path="p", sha256=EVIL, method=EVIL, card={}),
                GateRow(round=1, champion=0, candidate=1, promoted=False, reasons=[EVIL], evidence={}),
                DeliveryRow(round=1, policy=1, kind=EVIL, seconds=1, to_trainer=0.1, to_trainer_mean=0.1),
                AlarmRow(round=1, name=EVIL, value=1, limit=1, message=EVIL),
                NodeRow(round=1, node="solve", done=True, seconds=2, detail={"episodes": 10}),
                CurationRow(round=1, item_id=EVIL, role=EVIL, family=EVIL, kept=False, reason=EVIL, detail=EVIL),
                CritiqueRow(trajectory_id="e000001", round=1, policy=0, family=EVIL, verdict=EVIL, fault=EVIL),
                ToolCallRow(
                    owner="e000001", index=0, round=1, tool=EVIL, arguments=EVIL, ok=False, reason=EVIL, content=EVIL,
                    seconds=1,
                ),
                SkillRow(
                    id=EVIL, round=1, family=EVIL, policy=0, kind=EVIL, skill_id="s", kept=False, reason=EVIL,
                    detail=EVIL, text=EVIL,
                ),
            ]
        )  # fmt: skip
    (run.logs / "trainer.log").write_text(f"\x1b[31m{EVIL}\x1b[0m\x1b]0;owned\x07\n", encoding="utf-8")


async def remember(root: Path) -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding

    embedder = LangChainEmbedder(DeterministicFakeEmbedding(size=8), "fake")
    memory = await Memory.open(root / "mine" / "memory", embedder)
    skill = Skill(
        id="s", name=EVIL, description=EVIL, code=EVIL, parameters={EVIL: EVIL}, tests=(({EVIL: EVIL}, EVIL),),
        pinned=True, family=EVIL,
    )  # fmt: skip
    await memory.add([skill, Lesson(id="l", situation=EVIL, advice=EVIL, right=(EVIL,), family=EVIL)])
    await memory.aclose()


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> Site:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "one.yaml").write_text("rounds: 1\n")
    make_run(tmp_path / "runs", "mine", 60)
    fill(tmp_path / "runs")
    return Site(Runs(tmp_path / "runs"), KEY, configs=tmp_path / "configs")


@pytest_asyncio.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Guard(site.app(), Bounds(hosts=frozenset({"127.0.0.1"}), burst=600)))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, cookies={COOKIE: KEY}) as found:
        yield found


def walk(site: Site, *methods: str) -> list[str]:
    """Every address of the app that takes one of these methods."""
    routes = [route for route in site.app().routes if set(methods) & set(getattr(route, "methods", None) or ())]
    return [re.sub(r"{(\w+)[^}]*}", lambda found: IDS[found[1]], getattr(route, "path", "")) for route in routes]


async def test_every_route_wants_the_cookie(site: Site, client: httpx.AsyncClient) -> None:
    pages, acts = walk(site, "GET"), walk(site, "POST")
    assert len(pages) > 12 and len(acts) == 6
    for cookie in ({}, {COOKIE: "wrong"}, {COOKIE: KEY[:-1]}, {COOKIE: ""}):
        client.cookies = httpx.Cookies(cookie)
        for path in pages:
            expected = 200 if path.startswith("/static/") else 401
            found = await client.get(path)
            assert found.status_code == expected, path
            assert site.token not in found.text, "who is locked out learns no token"
        for path in acts:
            assert (await client.post(path, data={"token": site.token})).status_code == 401, path


async def test_every_act_wants_the_token(site: Site, client: httpx.AsyncClient) -> None:
    for path in walk(site, "POST"):
        for form in ({}, {"token": ""}, {"token": "wrong"}, {"token": site.token[:-1]}, {"token": KEY}):
            assert (await client.post(path, data=form)).status_code == 403, path
        plain = await client.post(path, content=f"token={site.token}", headers={"content-type": "text/plain"})
        assert plain.status_code == 403, "a form that another site can send without asking does not count"
        assert (await client.post(path, headers={TOKEN_HEADER: "wrong"})).status_code == 403
        assert (await client.post(f"{path}?token={site.token}")).status_code == 403
        for method in ("PUT", "DELETE", "PATCH"):
            assert (await client.request(method, path, data={"token": site.token})).status_code == 405


async def test_a_decision_cannot_be_forged(site: Site, client: httpx.AsyncClient, tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "runs" / "mine" / "ledger.sqlite")) as ledger:
        (asked,) = ledger.rows(ApprovalRow, answer=None)
        before = ledger.count(DecisionRow)
        form = {"id": asked.id, "answer": "yes", "why": "because"}
        path = "/runs/mine/approvals"
        await client.post(path, data=form)
        await client.post(path, data=form | {"token": "wrong"})
        await client.get(path, params=form | {"token": site.token})
        foreign = await client.post(path, data=form | {"token": site.token}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        named = await client.post(path, data=form | {"token": site.token}, headers={"Host": "evil.example"})
        assert named.status_code == 403
        null = await client.post(path, data=form | {"token": site.token}, headers={"Origin": "null"})
        assert null.status_code == 403, "a sandboxed frame"
        for answer_ in ("", "maybe", "YES"):
            odd = await client.post(path, data=form | {"token": site.token, "answer": answer_})
            assert odd.status_code == 409
        long = await client.post(path, data=form | {"token": site.token, "why": "w" * 5000})
        assert long.status_code == 409
        assert ledger.count(DecisionRow) == before and ledger.get(ApprovalRow, asked.id).answer is None  # type: ignore[union-attr]


async def test_what_is_too_large_is_not_read(site: Site, client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"a" * 2**20

    found = await client.post("/runs/mine/approvals", content=endless())
    assert found.status_code == 413 and sent < 5
    told = await client.post("/start", content=b"", headers={"content-length": str(100 * 2**20)})
    assert told.status_code == 413


@pytest.mark.parametrize(
    "config",
    ["../secret.yaml", "/etc/passwd", "", "one.yaml/../../secret.yaml", "link.yaml", "none.yaml", "one.yaml\0"],
)
async def test_a_session_starts_from_no_file_outside(
    site: Site, client: httpx.AsyncClient, tmp_path: Path, config: str
) -> None:
    (tmp_path / "secret.yaml").write_text("rounds: 1\n")
    (tmp_path / "configs" / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    form = {"token": site.token, "config": config, "name": "new"}
    found = await client.post("/start", data=form)
    assert found.status_code == 409 and "Choose one from the list" in found.text
    assert not (tmp_path / "runs" / "new").exists()
    assert "link.yaml" not in (await client.get("/")).text


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "/abs", "a/b", "a\\b", ".hidden", "-flag", "a b", "a\n", "x" * 65, "mine", "data"]
)
async def test_a_session_starts_in_no_place_outside_and_over_nothing(
    site: Site, client: httpx.AsyncClient, tmp_path: Path, name: str
) -> None:
    (tmp_path / "runs" / "data").mkdir()
    (tmp_path / "runs" / "data" / "precious").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    # A name is stripped of blanks at its ends, so that "a\n" is "a".
    form = {"token": site.token, "config": "one.yaml", "name": name if name != "a\n" else "a\nb"}
    assert (await client.post("/start", data=form)).status_code == 409
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "path",
    ["/runs/none/approvals", "/runs/..%2Fruns/approvals", "/runs/none/library", "/runs/mine/library/none",
     "/runs/mine/library/..%2F..%2Fconfig.yaml", "/static/..%2F..%2Fsite.py"],
)  # fmt: skip
async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("name", ["../ledger.sqlite", "/etc/passwd", "..", "link.log", "trainer.log\0"])
async def test_a_log_is_one_of_the_runs_own(client: httpx.AsyncClient, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden words")
    (tmp_path / "runs" / "mine" / "logs" / "link.log").symlink_to(secret)
    for path in ("/runs/mine/log", "/runs/mine/log/tail"):
        found = await client.get(path, params={"name": name})
        assert found.status_code == 200 and "hidden words" not in found.text and "root:" not in found.text
        assert "SQLite format" not in found.text


async def test_what_anybody_wrote_is_text_on_every_page(site: Site, client: httpx.AsyncClient, tmp_path: Path) -> None:
    await remember(tmp_path / "runs")
    paths = [path for path in walk(site, "GET") if not path.startswith("/static/") and not path.endswith("/report")]
    paths = [path.replace("library/e000001", "library/s") for path in paths]
    for path in [*paths, "/runs/mine/library/l", "/runs/mine/library?" + "text=<script>alert(1)</script>&family=<img>"]:
        found = await client.get(path)
        assert found.status_code == 200, path
        assert "<script>alert" not in found.text and "<img" not in found.text, path
        assert "onerror=alert(2)>" not in found.text and "\x1b" not in found.text, path
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        addresses = re.findall(r'(?:href|src|action|data-live)="([^"]*)"', found.text)
        assert all(address.startswith(("/", "?", "#")) and address[:2] != "//" for address in addresses), path
    texts = [(await client.get(f"/runs/mine/{place}")).text for place in ("approvals", "policies", "data", "log", "")]
    assert all("&lt;script&gt;alert(1)" in text for text in texts), "it was there to be shown"


async def test_every_field_has_a_label_and_every_page_its_landmarks(
    site: Site, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await remember(tmp_path / "runs")
    places = ("", "approvals", "policies", "library", "library/s", "log", "trajectories", "data")
    for path in [*(f"/runs/mine/{place}" for place in places), "/"]:
        text = (await client.get(path)).text
        assert text.count("<main") == text.count("<h1>") == 1 and 'href="#main"' in text and 'lang="en"' in text
        loose = re.sub(r"<label.*?</label>", "", text, flags=re.S)
        assert not re.findall(r'<(?:select|textarea|input(?! type="hidden"))', loose), f"{path}: a nameless field"
        for table in re.findall(r"<table.*?</table>", text, flags=re.S):
            assert "scope=" in table, f"{path}: a table without headers"
        assert len(set(found := re.findall(r' id="([^"]+)"', text))) == len(found), f"{path}: two of one id"
        posts = re.findall(r'<form[^>]*method="post".*?</form>', text, flags=re.S)
        assert all('name="token"' in form for form in posts)
