"""What a person does in the browser app: decide, keep the library in order, start, stop, go on, promote."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from tests.ui.test_ui_site import KEY, make_run

from autotelic.core.config import dump_config, load_config
from autotelic.core.run_dir import RunDir
from autotelic.graphs import Config
from autotelic.graphs.holdings import open_library
from autotelic.graphs.oversight import answer, check_log, request
from autotelic.memory import Lesson, Skill, glance
from autotelic.store import AlarmRow, ApprovalRow, DecisionRow, GateRow, Ledger, PolicyRow, RunRow
from autotelic.ui.browse import Runs, holder
from autotelic.ui.guard import Bounds, Guard
from autotelic.ui.site import COOKIE, Site
from autotelic.ui.site_control import Jobs

pytestmark = pytest.mark.e2e

CONFIG = "environment: {name: reasoning_gym}\n"
PROGRAM = """
import sys, time
from pathlib import Path
from autotelic.core.run_dir import RunDir
from autotelic.store import Ledger, RunRow

words = sys.argv[1:]
run = RunDir(Path(words[words.index("--run") + 1] if "--run" in words else words[2]))
print("\\x1b[31mdoing\\x1b[0m", *words, flush=True)
with run.held():
    ledger = Ledger(run.ledger)
    ledger.add([RunRow(id="r", seed=0, config={"rounds": 2}, model_source="m", model_sha256="s")])
    ledger.close()
    try:
        if words[0] == "self-play":
            print("waiting", flush=True)
            time.sleep(100)
    except KeyboardInterrupt:
        print("closed in good order", flush=True)
        sys.exit(130)
"""
"""Stands for the commands: it takes the run's lease as they do, and ends by Ctrl-C as they do."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "configs" / "more").mkdir(parents=True)
    (tmp_path / "configs" / "one.yaml").write_text(CONFIG)
    (tmp_path / "configs" / "more" / "two.yaml").write_text(CONFIG)
    (tmp_path / "configs" / "wrong.yaml").write_text("roundz: 2\n")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    make_run(tmp_path / "runs", "mine", 3)
    return Site(Runs(tmp_path / "runs"), KEY, configs=tmp_path / "configs", jobs=Jobs([sys.executable, str(program)]))


@asynccontextmanager
async def opened(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Guard(site.app(), Bounds(burst=10_000)))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1", cookies={COOKIE: KEY}, follow_redirects=True
    ) as client:
        yield client


async def until(client: httpx.AsyncClient, path: str, holds: Callable[[str], object]) -> str:
    async with asyncio.timeout(60):
        while not holds(text := (await client.get(path)).text):  # noqa: ASYNC110 (another process has no event)
            await asyncio.sleep(0.05)
    return text


def mine(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs" / "mine")


async def test_a_request_is_shown_answered_once_and_logged(site: Site, tmp_path: Path) -> None:
    question = {"ask": "promote policy-2?", "reasons": ["fresh rose by 3 points"], "figures": {"gain": 0.03, "n": 400}}
    with closing(Ledger(mine(tmp_path).ledger)) as ledger:
        asked = request(ledger, "promotion", "policy-2", question)
        other = request(ledger, "promotion", "policy-3", {"ask": "promote policy-3?"})
        async with opened(site) as client:
            page = await client.get("/runs/mine/approvals")
            assert "fresh rose by 3 points" in page.text and '<th scope="row">gain</th><td>0.03</td>' in page.text
            assert re.search(r"Approvals.*open: </span>2<", page.text), "the navigation counts them"
            assert "2 to decide" in (await client.get("/")).text
            form = {"token": site.token, "id": asked.id, "answer": "no", "why": "too little <evidence>"}
            done = await client.post("/runs/mine/approvals", data=form)
            assert done.status_code == 200 and "too little &lt;evidence&gt;" in done.text
            assert "open: </span>1<" in done.text and "the log was checked" in done.text
            again = await client.post("/runs/mine/approvals", data=form | {"answer": "yes"})
            assert again.status_code == 409 and "A decision stands" in again.text
            await client.post("/runs/mine/approvals", data=form | {"id": other.id, "answer": "yes"})
            text = (await client.get("/runs/mine/approvals")).text
        assert check_log(ledger) == 2
        assert [(row.answer, row.subject) for row in ledger.rows(DecisionRow, order="number")] == [
            (False, "policy-2"), (True, "policy-3"),
        ]  # fmt: skip
        assert ledger.rows(DecisionRow, number=2)[0].hash in text, "the head, to be kept elsewhere"
        assert ledger.count(ApprovalRow, answer=None) == 0


async def test_a_log_that_was_changed_is_shown_so(site: Site, tmp_path: Path) -> None:
    with closing(Ledger(mine(tmp_path).ledger)) as ledger:
        made = answer(ledger, request(ledger, "k", "s", {"ask": "?"}).id, False)
        made.answer = True
        ledger.put(made)
    async with opened(site) as client:
        assert "The log was changed" in (await client.get("/runs/mine/approvals")).text


async def library(tmp_path: Path, *more: str) -> None:
    run = mine(tmp_path)
    fake = {"embedder": "langchain_core.embeddings:DeterministicFakeEmbedding", "embedder_args": {"size": 256}}
    overrides = ["environment={name: reasoning_gym}", f"memory={json.dumps(fake)}", *more]
    dump_config(load_config(Config, None, overrides), run.config)
    skill = Skill(
        id="made/1", name="count", description="Counts letters.", code="def count(): ...", family="letters",
        parameters={"type": "object"}, tests=(({"a": 1}, 2),), gain=(0.1, 0.05, 0.2),
    )  # fmt: skip
    lessons = [
        Lesson(
            id=f"l{n:02}", situation=f"case {n}", advice=f"do {n * 7919}", right=("e000001",), family="sums", round=n
        )
        for n in range(55)
    ]
    async with open_library(run.root) as (memory, _):
        await memory.add([skill, *lessons])


async def test_the_library_is_searched_filtered_and_read(site: Site, tmp_path: Path) -> None:
    await library(tmp_path)
    async with opened(site) as client:
        first = (await client.get("/runs/mine/library")).text
        assert "56 found" in first and first.count("library/l") == 50
        (more,) = re.findall(r'rel="next" href="([^"]+)"', first)
        assert (await client.get(more.replace("&amp;", "&"))).text.count("library/l") == 5
        assert "1 found" in (await client.get("/runs/mine/library?kind=skill")).text
        assert "55 found" in (await client.get("/runs/mine/library?family=sums&sight=in")).text
        one = (await client.get(f"/runs/mine/library?text=DO {31 * 7919}")).text
        assert "library/l31" in one and "1 found" in one
        near = await client.get("/runs/mine/library?text=case&how=meaning&kind=lesson")
        assert "20 found, the nearest" in near.text
        assert "There is nothing here that fits" in (await client.get("/runs/mine/library?text=nonsense")).text
        item = (await client.get("/runs/mine/library/made/1")).text
        assert "def count(): ..." in item and "+10.0 points" in item


async def test_items_are_pinned_put_out_of_sight_and_forgotten(site: Site, tmp_path: Path) -> None:
    await library(tmp_path)

    def stand() -> dict[str, tuple[str, bool | None]]:
        return {one.id: (row.why, getattr(one, "pinned", None)) for one, row in glance(mine(tmp_path).memory)}

    async with opened(site) as client:

        async def act(name: str, id: str, **more: str) -> httpx.Response:
            return await client.post("/runs/mine/library", data={"token": site.token, "act": name, "id": id, **more})

        assert (await act("pin", "made/1")).status_code == 200 and stand()["made/1"] == ("", True)
        assert "Unpin" in (await client.get("/runs/mine/library/made/1")).text
        assert (await act("unpin", "made/1")).status_code == 200 and stand()["made/1"] == ("", False)
        assert (await act("retire", "made/1")).status_code == 200 and stand()["made/1"][0] == "by a person"
        assert (await act("pin", "made/1")).status_code == 409, "it is out of use"
        assert (await act("restore", "made/1")).status_code == 200 and stand()["made/1"][0] == ""
        assert (await act("forget", "l03")).status_code == 409 and "l03" in stand(), "it has to be meant"
        assert (await act("forget", "l03", sure="yes")).status_code == 200 and "l03" not in stand()
        assert (await act("forget", "l03", sure="yes")).status_code == 409
        assert (await act("drop", "l04")).status_code == 409
        with mine(tmp_path).held():
            refused = await act("forget", "l04", sure="yes")
            assert refused.status_code == 409 and "has this run" in refused.text
            assert "55 found" in (await client.get("/runs/mine/library")).text, "it can be looked at all the same"
        assert "l04" in stand()


async def test_what_is_forgotten_waits_for_a_person_where_the_run_wants_that(site: Site, tmp_path: Path) -> None:
    await library(tmp_path, "oversight=[forgetting]")
    async with opened(site) as client:
        form = {"token": site.token, "act": "forget", "id": "l03", "sure": "yes"}
        asked = await client.post("/runs/mine/library", data=form)
        assert asked.url.path == "/runs/mine/approvals" and "from the memory for good?" in asked.text
        assert "l03" in {one.id for one, _ in glance(mine(tmp_path).memory)}
        (id,) = re.findall(r'name="id" value="([^"]+)"', asked.text)
        await client.post("/runs/mine/approvals", data={"token": site.token, "id": id, "answer": "yes"})
        assert (await client.post("/runs/mine/library", data=form)).url.path == "/runs/mine/library"
        assert "l03" not in {one.id for one, _ in glance(mine(tmp_path).memory)}


async def test_a_session_is_started_stopped_and_goes_on(site: Site, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "new")
    async with opened(site) as client:
        front = (await client.get("/")).text
        assert re.findall(r'<option value="([^"]+\.yaml)"', front) == ["more/two.yaml", "one.yaml", "wrong.yaml"]
        form = {"token": site.token, "config": "more/two.yaml", "name": "new"}
        wrong = await client.post("/start", data=form | {"config": "wrong.yaml"})
        assert wrong.status_code == 409 and "roundz" in wrong.text and not run.root.exists()
        started = await client.post("/start", data=form)
        assert started.status_code == 200 and "going on" in started.text
        assert (await client.post("/start", data=form)).status_code == 409, "it has begun"
        await until(client, "/runs/new/log/tail", lambda text: "\nwaiting" in text)
        shown = await until(client, "/runs/new/", lambda text: "Stop (can be resumed)" in text)
        assert ">running<" in shown and "Resume<" not in shown
        assert (await client.post("/runs/new/resume", data={"token": site.token})).status_code == 409
        log = (await client.get("/runs/new/log")).text
        assert "two.yaml" in log and "\x1b" not in log
        pid = holder(run)
        assert pid is not None and pid > 0
        assert (await client.post("/runs/new/stop", data={"token": site.token})).status_code == 200
        ended = await until(client, "/runs/new/log/tail", lambda text: "going on" not in text)
        assert "stopped, can go on" in ended and "closed in good order" in ended and "data-ended" in ended
        assert not Path(f"/proc/{pid}").exists(), "no process is left, and nobody who has not been waited for"
        assert (await client.post("/runs/new/stop", data={"token": site.token})).status_code == 409
        again = await client.post("/runs/new/resume", data={"token": site.token})
        assert again.status_code == 409 and "no config" in again.text
        run.config.write_text(CONFIG)
        assert "Resume<" in (await client.get("/runs/new/")).text
        assert (await client.post("/runs/new/resume", data={"token": site.token})).status_code == 200
        await until(client, "/runs/new/log/tail", lambda text: "\nwaiting" in text)
        assert (await client.post("/runs/new/stop", data={"token": site.token})).status_code == 200
        twice = await client.post("/runs/new/stop", data={"token": site.token})
        assert twice.status_code == 409 and ("told to stop before" in twice.text or "does not run" in twice.text)
        await until(client, "/runs/new/log/tail", lambda text: "closed in good order" in text and "data-ended" in text)
        assert len(list(run.logs.glob("self-play-*.log"))) == 2


OPENS = "from pathlib import Path; from autotelic.store import Ledger; Ledger(Path(sys.argv[-1], 'ledger.sqlite'))"


@pytest.mark.parametrize("opens", ["", OPENS], ids=["at once", "with an empty ledger"])
async def test_what_ended_without_a_run_says_why(tmp_path: Path, opens: str) -> None:
    (tmp_path / "one.yaml").write_text(CONFIG)
    (tmp_path / "runs").mkdir()
    fails = Jobs([sys.executable, "-c", f"import sys\n{opens}\nprint('no such <model>'); sys.exit(2)"])
    site = Site(Runs(tmp_path / "runs"), KEY, configs=tmp_path, jobs=fails)
    async with opened(site) as client:
        form = {"token": site.token, "config": "one.yaml", "name": "new"}
        assert (await client.post("/start", data=form)).status_code == 200
        ended = await until(client, "/runs/new/log/tail", lambda text: "data-ended" in text)
        assert "you have to act" in ended and "no such &lt;model&gt;" in ended
        if opens:
            text = (await client.get("/runs/new/")).text
            assert ">stopped<" in text and "Resume<" not in text, "there is nothing to go on with"
        else:
            assert "you have to act" in (await client.get("/")).text
            assert (await client.get("/runs/new/")).url.path == "/runs/new/log", "there is nothing else of it to see"
        assert (await client.post("/start", data=form)).status_code == 200, "it may be tried again"
        await until(client, "/runs/new/log/tail", lambda text: "data-ended" in text)


async def test_a_policy_is_promoted_by_the_command(site: Site, tmp_path: Path) -> None:
    with closing(Ledger(mine(tmp_path).ledger)) as ledger:
        states = ("retired", "champion", "rejected", "discarded")
        ledger.add(
            PolicyRow(number=n, round=n, state=state, path="p", sha256="s", method="sft", card={})
            for n, state in enumerate(states)
        )
    async with opened(site) as client:
        page = (await client.get("/runs/mine/policies")).text
        assert "Promote policy-2" in page and "Roll back to policy-0" in page
        assert "policy-1<" not in re.sub("<h2>.*?</h2>", "", page) and "to policy-3" not in page
        form = {"token": site.token, "act": "promote", "number": "2"}
        for odd in ({"number": "1"}, {"number": "3"}, {"number": "9"}, {"number": "--help"}, {"act": "crown"}):
            assert (await client.post("/runs/mine/policies", data=form | odd)).status_code == 409
        with mine(tmp_path).held():
            assert "stop the session first" in (await client.get("/runs/mine/policies")).text
            refused = await client.post("/runs/mine/policies", data=form)
            assert refused.status_code == 409 and "is in use" in refused.text
        assert not list(mine(tmp_path).logs.iterdir()), "nothing was begun"
        assert (await client.post("/runs/mine/policies", data=form)).status_code == 200
        done = await until(client, "/runs/mine/log/tail", lambda text: "data-ended" in text)
        assert ">done<" in done and f"doing policies promote {tmp_path / 'runs' / 'mine'} 2" in done


async def test_a_session_shows_what_its_gate_measured_and_its_alarms(site: Site, tmp_path: Path) -> None:
    with closing(Ledger(mine(tmp_path).ledger)) as ledger:
        async with opened(site) as client:
            assert "Alarm in round" not in (await client.get("/runs/mine/curves")).text
            ledger.add([GateRow(round=1, champion=0, candidate=1, promoted=False, reasons=["no gain"], evidence={})])
            ledger.add([AlarmRow(round=1, name="diversity", value=0.1, limit=0.2, message="answers are all alike")])
            drawn = (await client.get("/runs/mine/curves")).text
            assert "answers are all alike" in drawn and "Accuracy by round" in drawn, "drawn anew, as there is news"
            assert "answers so far" in (await client.get("/runs/mine/status")).text


async def test_who_holds_the_lease_is_known_without_asking_for_it(tmp_path: Path) -> None:
    import os

    make_run(tmp_path, "mine", 0)
    run = RunDir(tmp_path / "mine")
    assert holder(run) is None
    with run.held():
        assert holder(run) == os.getpid()
        site = Site(Runs(tmp_path), KEY)
        async with opened(site) as client:
            stopped = await client.post("/runs/mine/stop", data={"token": site.token})
            assert stopped.status_code == 409, "the app does not end itself"
        (run.root / "lock").write_text("1")
        assert holder(run) is None, "that a file of another disk has the same number says nothing of this one"
    assert holder(run) is None


async def test_nothing_is_opened_for_a_run_that_has_ended(site: Site, tmp_path: Path) -> None:
    with closing(Ledger(mine(tmp_path).ledger)) as ledger:
        (row,) = ledger.rows(RunRow)
        row.outcome, row.finished_at = "rounds", row.started_at + 1
        ledger.put(row)
    async with opened(site) as client:
        text = (await client.get("/runs/mine/")).text
        assert "Resume<" not in text and "Stop (can" not in text
