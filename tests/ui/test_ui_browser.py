"""The browser app in a browser: every page, wide and on a phone, by keyboard, with hostile contents.

Pages are taken from the routes: one that is added is visited, or the test says what it needs to be.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.routing import Route
from tests.graphs import simulated
from tests.ui.test_ui_chat_page import House
from tests.ui.test_ui_site import EVIL, KEY, make_run

from autotelic.core.run_dir import RunDir
from autotelic.graphs import SelfPlay
from autotelic.graphs.oversight import answer, request
from autotelic.memory.glance import glance
from autotelic.store import EpisodeRow, Ledger
from autotelic.ui.browse import Runs
from autotelic.ui.site import COOKIE, TOKEN_HEADER, Site
from autotelic.ui.site_chat import ChatPages

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PATIENCE = 20_000
"""Milliseconds that a busy machine is given for anything."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WAYS = {
    "wide": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
NOT_OF_MINE = ("/runs/{run}/report", "/runs/{run}/library/{id:path}")
"""What a run has only once it was lived through."""
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
RUNS = ("mine", "lived")
"""One with hostile contents, and one that simulated parts have lived through."""
BESIDES = [
    "/runs/{run}/trajectories/{id}?with={other}",
    "/runs/{run}/trajectories?role=proposer",
    "/runs/{run}/trajectories?role=critic&right=true",
    "/chat?words=nothing",
]


def routes() -> list[str]:
    """Paths of all that can be looked at."""
    pages = ChatPages("unused", lambda _: pytest.fail("nobody is asked"))
    app = Site(Runs(Path()), KEY, chat=pages).app()
    return [one.path for one in app.routes if isinstance(one, Route) and "GET" in (one.methods or {"GET"})]


class Served(House):
    """A house on a port of its own, until told to stop."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_level="error", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self.pages:
            await self._server.serve([self._listening])

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._listening.close()

    def hold(self) -> None:
        self.model.pause.clear()

    def let_go(self) -> None:
        self._loop.call_soon_threadsafe(self.model.pause.set)

    def begin(self, *said: str, at: str = "/chat") -> str:
        """Begin a chat and say something in it."""
        with httpx.Client(base_url=self.url, cookies={COOKIE: KEY}, timeout=60) as client:
            place = client.post(at, data={"token": self.site.token, "name": ""}).headers["location"]
            for text in said:
                headers = {TOKEN_HEADER: self.site.token}
                client.post(f"{place}/act", json={"do": "say", "text": text}, headers=headers).raise_for_status()
        return str(place)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("browser")
    make_run(root / "runs", "mine", 60)
    with pytest.MonkeyPatch.context() as patch:
        simulated.install(patch.setattr, root / "model")
        asyncio.run(SelfPlay(simulated.small(), root / "runs" / "lived").run())
    for name in RUNS:
        ledger = Ledger(RunDir(root / "runs" / name).ledger)
        for number in range(2):
            asked = {"ask": f"promote? {EVIL}", "reasons": [EVIL], "number": number}
            row = request(ledger, "promotion", f"policy-{number} {EVIL}", asked)
        answer(ledger, row.id, True, by=EVIL, why=EVIL)
        ledger.close()
    house = Served(root)
    yield house
    house.let_go()
    house.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("there is no Chromium: install it with apt-get install chromium, or run make browser.")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()


class Visit:
    """A page, and all that goes wrong in it."""

    def __init__(self, browser: Browser, url: str, way: str) -> None:
        self._context = browser.new_context(**WAYS[way])  # type: ignore[arg-type]
        self._context.add_cookies([{"name": COOKIE, "value": KEY, "url": url}])
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self._url = url
        self.page.on("console", lambda one: self._fault(one.type == "error", f"console: {one.text}"))
        self.page.on("pageerror", lambda error: self._fault(True, f"script: {error}"))
        self.page.on("requestfailed", lambda one: self._fault(one.failure != "net::ERR_ABORTED", f"failed: {one.url}"))
        self.page.on("request", lambda one: self._fault(not one.url.startswith(url), f"foreign: {one.url}"))
        self.page.on("response", lambda one: self._fault(one.status >= 400, f"{one.status}: {one.url}"))
        self.page.on("dialog", self._dialog)

    def _fault(self, wrong: bool, text: str) -> None:
        if wrong:
            self.faults.append(text)

    def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"what was written ran: {dialog.message}")
        dialog.dismiss()

    def go(self, path: str) -> Page:
        self.page.goto(self._url + path, wait_until="networkidle")
        return self.page

    def check(self) -> None:
        """Nothing went wrong, nothing sticks out sideways, and the rules for everybody's access hold."""
        page = self.page
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        width, shown = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert width <= shown, f"{page.url} is {width} px wide on a screen of {shown}"
        found = Axe().run(page, options=RULES)
        assert not found.response["violations"], found.generate_report()
        assert not self.faults, self.faults

    def tab_to(self, selector: str, most: int = 120) -> None:
        """Press Tab until this has the focus; wherever it is on the way, it can be seen."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            there, seen = self.page.evaluate(_FOCUSED, selector)
            assert seen, f"the focus cannot be seen: {self.page.evaluate('document.activeElement.outerHTML')}"
            if there:
                return
        pytest.fail(f"{selector} is not reached by Tab on {self.page.url}")

    def close(self) -> None:
        self._context.close()


_FOCUSED = """(selector) => {
  const one = document.activeElement, style = getComputedStyle(one);
  return [one.matches(selector), one === document.body || style.outlineStyle !== "none" || style.boxShadow !== "none"];
}"""

Visiting = Callable[[str], Visit]


@pytest.fixture
def visiting(browser: Browser, served: Served) -> Iterator[Visiting]:
    visits: list[Visit] = []

    def open_one(way: str) -> Visit:
        visits.append(Visit(browser, served.url, way))
        return visits[-1]

    yield open_one
    for one in visits:
        one.close()


@pytest.fixture(scope="module")
def address(served: Served) -> Callable[[str, str], str]:
    """Gives a route's path for a run: what stands for its parameters."""
    chat = served.begin(f"evil {EVIL}", "and owls").rpartition("/")[2]

    def of(route: str, run: str) -> str:
        place = RunDir(served.root / "runs" / run)
        ledger = Ledger(place.ledger)
        id, other = (row.id for row in ledger.rows(EpisodeRow, order="id")[:2])
        ledger.close()
        if "/library/" in route:
            id = next((item.id for item, _ in glance(place.memory)), "")
        known = {"run": run, "id": id, "other": other, "name": "app.js", "form": "md", "chat": chat}
        return route.replace(":path", "").format(**{key: quote(value, safe="/") for key, value in known.items()})

    return of


def is_page(served: Served, path: str) -> bool:
    with httpx.Client(base_url=served.url, cookies={COOKIE: KEY}, timeout=60) as client:
        return client.get(path).text.lstrip().lower().startswith("<!doctype html")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("route", "run"),
    [(route, run) for route in [*routes(), *BESIDES] for run in RUNS if "{run}" in route or run == RUNS[0]],
)
def test_every_page_is_whole(
    served: Served, visiting: Visiting, address: Callable[[str, str], str], route: str, run: str, way: str
) -> None:
    path = address(route, run)
    if (run == "mine" and route in NOT_OF_MINE) or not is_page(served, path):
        return  # a style sheet, a file, a part of a page
    visit = visiting(way)
    page = visit.go(path)
    if route.endswith("/chat/{chat}"):
        expect(page.locator("#turns > li")).to_have_count(2)
    visit.check()
    if way == "wide":
        visit.tab_to("a[href]:not([href='#main'], [aria-current], .word a)")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        page.wait_for_load_state("networkidle")
        assert not visit.faults, visit.faults


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_refined_by_keyboard(served: Served, visiting: Visiting, way: str) -> None:
    visit = visiting(way)
    page = visit.go(served.begin(at="/runs/mine/chat"))
    visit.tab_to("#text")
    page.keyboard.type("tell me")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("about owls")
    page.keyboard.press("Enter")
    expect(page.locator(".asked pre")).to_have_text("tell me\nabout owls")
    expect(page.locator(".answer pre")).to_contain_text("mended")
    expect(page.locator("#text")).to_be_focused()
    page.locator("h1").click()
    visit.tab_to("[data-key=accept]")
    page.keyboard.press("Enter")
    expect(page.locator(".answer .pill")).to_have_text("accepted")
    expect(page.locator("[data-key=accept]")).to_be_focused()
    visit.tab_to("[data-key=wrong]")
    page.keyboard.press("Enter")
    page.keyboard.type("say more")
    page.keyboard.press("Enter")
    expect(page.locator(".how .said.user pre")).to_have_text("say more")
    visit.tab_to("[data-key=edit]")
    page.keyboard.press("Enter")
    expect(page.locator(".write textarea")).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.type(" and more")
    page.keyboard.press("Enter")
    expect(page.locator(".answer .pill")).to_have_text("edited")
    expect(page.locator(".answer pre")).to_contain_text("and more")
    visit.tab_to("[data-key='rate 4']")
    page.keyboard.press("Space")
    expect(page.locator(".stars")).to_have_attribute("aria-label", "rated 4 of 5")
    page.locator("h1").click()
    visit.tab_to("#learn")
    page.keyboard.press("Space")
    expect(page.locator("#learn")).to_have_attribute("aria-checked", "true")
    expect(page.locator("#learn")).to_be_focused()
    visit.check()


def test_two_are_compared_and_a_file_is_given(served: Served, visiting: Visiting, tmp_path: Path) -> None:
    visit = visiting("wide")
    page = visit.go(served.begin())
    (tmp_path / "birds.txt").write_text(f"owls {EVIL}")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\xff")
    page.locator("#text").fill("what is in it?")
    page.locator("#files").set_input_files(tmp_path / "picture.png")
    page.locator("#send").click()
    expect(page.locator("#status")).to_have_text("picture.png is no text.")
    page.locator("#files").set_input_files(tmp_path / "birds.txt")
    page.locator("#send").click()
    expect(page.locator(".asked li")).to_contain_text("birds.txt")
    page.locator("[data-key=compare]").click()
    page.locator(".write input").nth(1).fill("policy-1")
    page.locator(".write button").first.click()
    expect(page.locator(".pair .card")).to_have_count(2)
    assert "policy" not in page.locator(".pair .card b").all_text_contents()
    visit.check()
    page.locator("[data-key='choose 1']").click()
    expect(page.locator(".answer p")).to_contain_text("you took 2")
    page.locator("#who").fill("policy-1")
    page.locator("[data-key=retry]").click()
    expect(page.locator(".answer pre")).to_contain_text("by policy-1")
    page.reload(wait_until="networkidle")
    expect(page.locator("#who")).to_have_value("policy-1")
    visit.check()
    page.locator("#who").fill("policy-1:self-consistency-3")
    page.locator("[data-key=retry]").click()
    expect(page.locator(".how summary")).to_contain_text(re.compile(r"1 draft; \d calls?, \d+ tokens"))
    expect(page.locator(".how .said b:visible", has_text="made of, direct")).to_have_count(3)
    visit.check()


def test_a_message_that_was_not_taken_is_still_there(served: Served, visiting: Visiting, tmp_path: Path) -> None:
    visit = visiting("wide")
    page = visit.go(served.begin("slow owls"))
    (tmp_path / "birds.txt").write_text("hoot")
    page.locator("#files").set_input_files(tmp_path / "birds.txt")
    page.locator("#text").fill("slow owls")  # as was said before: it is not the words that tell
    page.locator("#who").fill("policy-7")
    page.locator("#send").click()
    expect(page.locator("#status")).to_contain_text("there is no policy-7")
    expect(page.locator("#text")).to_have_value("slow owls")
    expect(page.locator("#turns > li")).to_have_count(1)
    page.locator("#who").fill("champion")
    served.hold()
    try:
        page.locator("#send").click()
        expect(page.locator("#turns > li").nth(1).locator(".asked li")).to_contain_text("birds.txt")
        expect(page.locator("#text")).to_have_value("")
        page.locator("#text").fill("fail")
        page.locator("#send").click()
        expect(page.locator("#status")).to_contain_text("still being written")
        expect(page.locator("#text")).to_have_value("fail")
    finally:
        served.let_go()
    expect(page.locator("#turns > li").nth(1).locator(".answer pre")).to_be_visible()
    expect(page.locator("#status")).to_have_text("")
    page.locator("#send").click()
    expect(page.locator("#status")).to_contain_text("the model gave no answer")
    expect(page.locator("#turns > li")).to_have_count(3)
    expect(page.locator("#text")).to_have_value("")  # it is in the chat, to be gone on with
    assert not visit.faults, visit.faults


def test_what_streams_is_seen_stopped_and_gone_on_with(served: Served, visiting: Visiting) -> None:
    visit = visiting("phone")
    page = visit.go(served.begin("owls"))
    served.hold()
    try:
        page.locator("#text").fill("be slow")
        page.keyboard.press("Enter")
        expect(page.locator("#growing pre")).to_contain_text("policy-0")
        expect(page.locator("#growing")).to_have_attribute("aria-live", "polite")
        visit.check()
        page.locator("#stop").click()
        expect(page.locator(".cut")).to_contain_text("This answer was cut off.")
    finally:
        served.let_go()
    visit.check()
    page.locator("[data-key=resume]").click()
    expect(page.locator("#turns > li").nth(1).locator(".answer pre")).to_contain_text("mended")
    page.reload(wait_until="networkidle")
    expect(page.locator("#turns > li")).to_have_count(2)
    assert not visit.faults, visit.faults


def test_a_chat_is_renamed_forked_and_deleted(served: Served, visiting: Visiting) -> None:
    visit = visiting("phone")
    page = visit.go(served.begin("owls"))
    page.locator(".more summary").click()
    page.locator("#rename input").fill(f"night {EVIL}")
    page.locator("#rename button").click()
    expect(page.locator("h1")).to_have_text(f"night {EVIL}")
    page.get_by_role("button", name="Go on in a copy").click()
    expect(page.locator("h1")).to_contain_text("(fork)")
    page.locator(".more summary").click()
    page.get_by_label("I am sure").check()
    page.get_by_role("button", name="Delete this chat").click()
    expect(page.locator("h1")).to_have_text("Chat")
    expect(page.locator(".chats")).not_to_contain_text("(fork)")
    assert page.locator("#turns script, #turns img, .chats img").count() == 0
    visit.check()
