"""The chat's pages over HTTP, with a scripted model: every act, who is turned away, what is dropped in the middle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.graphs import simulated
from tests.ui.chatting import voices
from tests.ui.conftest import Model
from tests.ui.test_ui_site import EVIL, KEY, make_run

from autotelic.core.errors import ServingError
from autotelic.core.progress import Silent
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Message
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.chats import open_chats
from autotelic.graphs.chatting import build_chat
from autotelic.graphs.running import Event
from autotelic.graphs.source import Source
from autotelic.serving import Gateway, Sampling
from autotelic.store import ApprovalRow, DecisionRow, FeedbackRow, Ledger
from autotelic.tools import Toolbox, ToolsConfig, tool
from autotelic.ui import standby
from autotelic.ui.browse import Runs
from autotelic.ui.guard import Bounds, Guard
from autotelic.ui.site import COOKIE, TOKEN_HEADER, Site
from autotelic.ui.site_chat import ChatPages
from autotelic.ui.standby import Place, opener_of
from autotelic.ui.switchboard import Switchboard
from autotelic.ui.voices import Voices

HOST = "127.0.0.1"


class Talker(Model):
    """Answers with its policy and the last word it heard; its critic dislikes every first draft.

    `slow` waits in the middle until `pause` is set, `evil` gives markup, `fail` fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drafts = 0
        self.begun = asyncio.Event()

    async def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
        last = messages[-1].content
        self.asked.append((list(messages), sampling))
        if sampling.tools:
            calls = [{"tool": "write", "arguments": {"text": last}}]
            return [json.dumps({"answer": f"it {last}"} if messages[-1].role == "tool" else {"calls": calls})]
        if sampling.schema is not None:
            right = "mended" in last
            said = {
                "verdict": "right" if right else "wrong",
                "fault": "" if right else "short <img src=x onerror=alert(4)>",
                "advice": "",
            }
            return [json.dumps(said)] * sampling.n
        if "fail" in last:
            raise ServingError("the model gave no answer.")
        self.drafts += 1
        if last.startswith("That is not right"):
            return [f"mended {self.drafts} by policy-{self.policy}"]
        return [EVIL if "evil" in last else f"policy-{self.policy} on {last.split()[-1]}"]

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, policy: int | None, on_text: Callable[[str], None]
    ) -> Any:
        (found,) = await self.complete(messages, sampling, policy)
        first, *rest = found.text.split(" ")
        on_text(first)
        if "slow" in messages[-1].content:
            self.begun.set()
            await self.pause.wait()
        for word in rest:
            on_text(f" {word}")
            await asyncio.sleep(0)
        return found


class House:
    """A site with a chat and one run, and what was opened in it."""

    def __init__(self, root: Path, *, tooled: bool = False) -> None:
        self.root = root
        self.model = Talker()
        self.open: list[str | None] = []
        self.closed: list[str | None] = []
        self.fails = False
        self.written: list[str] = []
        self._tooled = tooled
        if not (root / "runs").exists():
            make_run(root / "runs", "mine", 3)
        self.pages = ChatPages(root / "threads.sqlite", self.opened)
        self.site = Site(Runs(root / "runs"), KEY, chat=self.pages)
        self.app = Guard(self.site.app(), Bounds(hosts=frozenset({HOST}), rate=60_000, burst=1000))

    @asynccontextmanager
    async def opened(self, run: RunDir | None) -> AsyncIterator[Place]:
        name = run.root.name if run else None
        if self.fails:
            raise ServingError("the server did not start.")
        self.open.append(name)
        gateway = Gateway(self.model, attempts=1)
        gateway.unblock(0)
        board = Switchboard(self.model.deliver, lambda: self.model.policy, turn=0.05)
        ledger = Ledger(run.ledger) if run else None
        box = Toolbox([tool(permission="writes")(self.write)]).opened() if self._tooled else Toolbox()
        asks = frozenset({"write"} if self._tooled else ())
        voices = Voices(GraphContext(gateway, toolbox=box), board, lambda: (0, [0, 1]), ledger, asks, run)
        try:
            async with open_chats(
                self.root / "threads.sqlite", build_chat(voices.chat(rounds=0 if self._tooled else 1))
            ) as chats:
                yield Place(chats, voices)
        finally:
            await board.aclose()
            if ledger is not None:
                ledger.close()
            self.closed.append(name)

    def write(self, text: str) -> str:
        """Write it down."""
        self.written.append(text)
        return f"wrote {text}"

    @asynccontextmanager
    async def visited(self) -> AsyncIterator[Visitor]:
        transport = httpx.ASGITransport(self.app)
        async with (
            self.pages,
            httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", cookies={COOKIE: KEY}) as client,
        ):
            yield Visitor(self, client)


class Visitor:
    """Somebody with the key and a page open."""

    def __init__(self, house: House, client: httpx.AsyncClient) -> None:
        self.house = house
        self.client = client
        self.token = house.site.token

    async def begin(self, at: str = "/chat", name: str = "") -> str:
        answer = await self.client.post(at, data={"token": self.token, "name": name})
        assert answer.status_code == 303
        return answer.headers["location"]

    async def post(self, at: str, **asked: Any) -> httpx.Response:
        return await self.client.post(f"{at}/act", json=asked, headers={TOKEN_HEADER: self.token})

    async def act(self, at: str, do: str, text: str = "", **more: Any) -> list[dict[str, Any]]:
        answer = await self.post(at, do=do, text=text, **more)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    async def last(self, at: str, do: str, text: str = "", **more: Any) -> dict[str, Any]:
        """Do something that goes well; return the last turn."""
        told = await self.act(at, do, text, **more)
        assert not [one for one in told if one["kind"] == "error"]
        assert told[-1]["kind"] == "state"
        turns = told[-1]["turns"]
        return dict(turns[-1]) if turns else {}

    async def state(self, at: str) -> dict[str, Any]:
        answer = await self.client.get(f"{at}/state")
        assert answer.status_code == 200
        return dict(answer.json())


class Stream:
    """An act whose answer is read as it comes, and may be dropped."""

    def __init__(self, house: House, at: str, **asked: Any) -> None:
        self._given = [{"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}]
        self._dropped = asyncio.Event()
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        headers = {
            "host": HOST, "cookie": f"{COOKIE}={KEY}", TOKEN_HEADER: house.site.token,
            "content-type": "application/json",
        }  # fmt: skip
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": f"{at}/act", "raw_path": f"{at}/act".encode(), "query_string": b"",
            "root_path": "", "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": (HOST, 1), "server": (HOST, 80),
        }  # fmt: skip
        self.task = asyncio.ensure_future(house.app(scope, self._receive, self.sent.put))

    async def _receive(self) -> Any:
        if self._given:
            return self._given.pop()
        await self._dropped.wait()
        return {"type": "http.disconnect"}

    async def line(self) -> dict[str, Any]:
        while True:
            message = await asyncio.wait_for(self.sent.get(), 20)
            if message.get("body"):
                return dict(json.loads(message["body"]))

    async def drop(self) -> None:
        self._dropped.set()
        await asyncio.wait_for(self.task, 20)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield House(tmp_path)


async def test_an_answer_is_refined_by_every_act(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin()
        told = await one.act(at, "say", "tell me about owls")
        kinds = [line["kind"] for line in told]
        assert kinds[0] == "opening" and kinds[-1] == "state" and kinds.count("token") == 7
        assert [kind for kind in kinds if kind not in ("opening", "token", "note")][:4] == ["draft", "criticise"] * 2
        tokens = "".join(line["text"] for line in told if line["kind"] == "token")
        assert tokens == "policy-0 on owlsmended 2 by policy-0"
        turn = told[-1]["turns"][-1]
        assert turn["answer"] == "mended 2 by policy-0" and [d["critique"]["verdict"] for d in turn["drafts"]] == [
            "wrong", "right",
        ]  # fmt: skip
        assert (await one.last(at, "accept"))["verdict"] == "accepted"
        assert (await one.last(at, "undo"))["verdict"] is None
        turn = await one.last(at, "wrong", "say more\nplease")
        assert turn["complaints"] == ["say more\nplease"] and turn["answer"] == "mended 3 by policy-0"
        turn = await one.last(at, "edit", "as it\nshould be")
        assert turn["answer"] == "as it\nshould be" and turn["before"] == "mended 3 by policy-0"
        assert (await one.last(at, "rate", "4"))["stars"] == 4
        assert (await one.last(at, "reject"))["verdict"] == "rejected"
        turn = await one.last(at, "retry", who="policy-1")
        assert turn["answer"] == "mended 5 by policy-1" and turn["verdict"] is None
        state = await one.state(at)
        assert state["chat"]["name"] == "tell me about owls" and len(state["turns"]) == 1
        assert not state["pending"] and not state["busy"]


async def test_two_are_compared_blind(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin()
        await one.act(at, "say", "owls")
        told = await one.act(at, "compare", "policy-0 policy-1")
        pair = told[-1]["turns"][-1]["pair"]
        assert [sorted(said) for said in pair] == [["text"], ["text"]]
        assert "policy" not in json.dumps([line for line in told if line["kind"] == "token"])
        turn = await one.last(at, "choose", "2")
        assert turn["answer"] == pair[1]["text"] and turn["verdict"] == "accepted"
        assert f"policy-{turn['pair'][1]['policy']} on owls" == turn["answer"]


async def test_what_cannot_be_done_leaves_the_chat_as_it_was(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin()
        await one.act(at, "say", "owls")
        before = await one.state(at)
        for do, asked in (
            ("say", {"text": "cats", "who": "policy-7"}), ("say", {"text": " "}), ("choose", {"text": "1"}),
            ("rate", {"text": "9"}), ("wrong", {"text": ""}), ("compare", {"text": "champion"}), ("allow", {}),
            ("learn", {"text": "on"}),
        ):  # fmt: skip
            told = await one.act(at, do, **asked)
            assert [line["kind"] for line in told if line["kind"] != "opening"] == ["error", "state"], do
            assert told[-1]["turns"] == before["turns"], do


async def test_chats_are_found_renamed_forked_saved_and_deleted(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin(name="birds")
        await one.act(at, "say", "tell me about owls")
        other = await one.begin()
        await one.act(other, "say", "of cats")
        listed = (await one.client.get("/chat?words=OWLS")).text
        assert (
            "birds" in listed
            and "of cats" not in listed
            and "None holds" in (await one.client.get("/chat?words=zzz")).text
        )
        await one.act(at, "name", "night birds")
        forked = (await one.client.post(f"{at}/fork", data={"token": one.token, "name": "a copy"})).headers["location"]
        await one.act(forked, "say", "and of dogs")
        assert [len((await one.state(a))["turns"]) for a in (at, forked)] == [1, 2]
        saved = await one.client.get(f"{at}/export/md")
        assert saved.text.startswith("# night birds") and "attachment" in saved.headers["content-disposition"]
        assert (await one.client.get(f"{at}/export/json")).json()["turns"][0]["question"] == "tell me about owls"
        assert (await one.client.get(f"{at}/export/exe")).status_code == 404
        gone = await one.client.post(f"{at}/forget", data={"token": one.token})
        assert gone.headers["location"] == "/chat"
        assert (await one.client.get(at)).status_code == 404
        assert "night birds" not in (await one.client.get("/chat")).text


async def test_what_is_said_in_a_terminal_goes_on_here_and_back(house: House) -> None:
    async with house.opened(None) as place:
        talk = place.talk()
        _ = [event async for event in talk.line("tell me about owls")]
        assert talk.chat is not None
    async with house.visited() as one:
        assert "tell me about owls" in (await one.client.get("/chat")).text
        await one.act(f"/chat/{talk.chat.id}", "say", "and cats")
    async with house.opened(None) as place:
        talk = place.talk(await place.chats.find(talk.chat.id))
        _ = [event async for event in talk.line("/accept")]
        turn = await talk.turn()
    assert turn is not None and turn.question == "and cats" and turn.verdict == "accepted"


async def test_nothing_is_learned_without_consent_and_nothing_stays_of_what_is_deleted(house: House) -> None:
    def learned() -> list[str]:
        ledger = Ledger(RunDir(house.root / "runs" / "mine").ledger)
        try:
            return [row.chosen for row in ledger.rows(FeedbackRow)]
        finally:
            ledger.close()

    async with house.visited() as one:
        at = await one.begin("/runs/mine/chat")
        assert at.startswith("/runs/mine/chat/")
        await one.act(at, "say", "owls")
        await one.act(at, "accept")
        assert (await one.state(at))["can_learn"] and learned() == []
        await one.act(at, "learn", "on")
        assert learned() == ["mended 2 by policy-0"] and (await one.state(at))["chat"]["learn"]
        await one.act(at, "undo")
        assert learned() == []
        await one.act(at, "accept")
        await one.act(at, "learn", "off")
        assert learned() == []
        await one.act(at, "learn", "on")
        assert len(learned()) == 1
        elsewhere = at.replace("/runs/mine", "")
        await one.client.post(f"{elsewhere}/forget", data={"token": one.token})
        assert learned() == []


async def test_a_chat_is_deleted_though_a_run_is_damaged(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin("/runs/mine/chat")
        await one.act(at, "learn", "on")
        await one.act(at, "say", "owls")
        await one.act(at, "accept")
        (house.root / "runs" / "broken").mkdir()
        (house.root / "runs" / "broken" / "ledger.sqlite").write_bytes(b"this is no database" * 100)
        gone = await one.client.post(f"{at}/forget", data={"token": one.token})
        assert gone.status_code == 200 and "The chat is deleted." in gone.text and "runs/broken: " in gone.text
        assert (await one.client.get(at)).status_code == 404
    with closing(Ledger(RunDir(house.root / "runs" / "mine").ledger)) as ledger:
        assert not ledger.count(FeedbackRow)


async def test_what_was_allowed_under_a_run_is_forbidden_without_one(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin("/runs/mine/chat")
        await one.act(at, "say", "owls")
        elsewhere = at.replace("/runs/mine", "")
        assert not (await one.state(elsewhere))["can_learn"]
        await one.act(at, "learn", "on")
        await one.act(at, "accept")
        assert (await one.state(elsewhere))["can_learn"]
        await one.act(elsewhere, "learn", "off")
        assert not (await one.state(at))["chat"]["learn"]
    with closing(Ledger(RunDir(house.root / "runs" / "mine").ledger)) as ledger:
        assert not ledger.count(FeedbackRow)


@pytest.mark.parametrize("way", ["undo", "forget"])
async def test_a_question_that_is_taken_back_waits_no_more(tmp_path: Path, way: str) -> None:
    house = House(tmp_path, tooled=True)
    async with house.visited() as one:
        at = await one.begin("/runs/mine/chat")
        await one.act(at, "say", "owls")
        with closing(Ledger(RunDir(tmp_path / "runs" / "mine").ledger)) as ledger:
            assert ledger.count(ApprovalRow, answer=None) == 1
            if way == "undo":
                await one.act(at, "undo")
            else:
                await one.client.post(f"{at}/forget", data={"token": one.token})
            assert [(row.answer, row.why) for row in ledger.rows(DecisionRow)] == [
                (False, "what it was asked for was taken back")
            ]
            assert not ledger.count(ApprovalRow, answer=None) and house.written == []


async def test_what_anybody_wrote_is_text(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin(name=EVIL)
        file = {"name": f"../../{EVIL}", "text": EVIL}
        turn = await one.last(at, "say", f"evil {EVIL}", files=[file])
        assert turn["drafts"][0]["text"] == EVIL
        for path in ("/chat", at, f"/runs/mine{at}", f"/chat?words={EVIL}"):
            page = await one.client.get(path)
            assert page.status_code == 200 and "<script>alert" not in page.text and "<img" not in page.text
            assert "script-src 'self'" in page.headers["content-security-policy"]
        state = await one.client.get(f"{at}/state")
        assert state.headers["content-type"] == "application/json"
        assert state.headers["x-content-type-options"] == "nosniff"


async def test_files_are_given_and_commands_are_words(house: House) -> None:
    secret = house.root / "secret"
    secret.write_text("a secret of this machine")
    async with house.visited() as one:
        at = await one.begin()
        files = [
            {"name": "../../etc/birds.txt", "text": "owls\nhoot"},
            {"name": "..", "text": "two"},
            {"name": "", "text": "3"},
        ]
        turn = await one.last(at, "say", "what is in them?", files=files)
        assert turn["files"][0] == {"name": "birds.txt", "characters": 9} and len(turn["files"]) == 3
        assert "birds.txt:\nowls\nhoot" in house.model.asked[0][0][-1].content
        turn = await one.last(at, "say", f"/attach {secret}")
        assert turn["question"] == f"/attach {secret}" and turn["files"] == []
        turn = await one.last(at, "say", "//quit")
        assert turn["question"] == "//quit"
        assert not any("a secret" in m.content for asked, _ in house.model.asked for m in asked)


async def test_who_is_not_meant_to_is_turned_away(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin()
        act, said = f"{at}/act", {"do": "say", "text": "owls"}
        good = {TOKEN_HEADER: one.token}
        assert (await one.client.post(act, json=said)).status_code == 403
        assert (await one.client.post(act, json=said, headers={TOKEN_HEADER: "x"})).status_code == 403
        for path in ("/chat", f"{at}/fork", f"{at}/forget"):
            assert (await one.client.post(path, data={"token": "x"})).status_code == 403
        evil = good | {"Origin": "https://evil.example"}
        assert (await one.client.post(act, json=said, headers=evil)).status_code == 403
        stranger = httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url=f"http://{HOST}")
        async with stranger:
            for path in ("/chat", at, f"{at}/state", f"{at}/export/md"):
                assert (await stranger.get(path, headers={"cookie": f"{COOKIE}=wrong"})).status_code == 401
            assert (await stranger.post(act, json=said, headers=good)).status_code == 401
        assert (await one.state(at))["turns"] == []


async def test_what_is_too_large_or_nonsense_is_refused(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin()
        file = {"name": "a", "text": "x"}
        assert (await one.post(at, do="say", text="x" * 200_001)).status_code == 413
        assert (await one.post(at, do="say", text="x", files=[{"name": "a", "text": "x" * 200_001}])).status_code == 413
        assert (await one.post(at, do="say", text="x", files=[file] * 9)).status_code == 413
        assert (await one.post(at, do="say", text="x" * 2**20)).status_code == 413
        for asked in ({"do": "attach", "text": "/etc/passwd"}, {"do": "export", "text": "/tmp/x"}, {"do": 3}, {}):
            answer = await one.post(at, **asked)
            assert answer.status_code == 400 and answer.json()["error"]
        assert (await one.post("/chat/none", do="accept")).status_code == 404
        assert (await one.client.get("/chat/none")).status_code == 404
        assert (await one.client.get("/chat/none/state")).status_code == 404
        assert (await one.client.get("/runs/none/chat")).status_code == 404
        assert (await one.state(at))["turns"] == []


async def test_one_act_at_a_time_in_a_chat(house: House) -> None:
    async with house.visited() as one:
        at, other = await one.begin(), await one.begin()
        house.model.pause.clear()
        first = Stream(house, at, do="say", text="be slow")
        while (await first.line())["kind"] != "token":
            pass
        second = await one.post(at, do="say", text="me too")
        assert second.status_code == 409 and "worked on" in second.json()["error"]
        for what in ("fork", "forget"):
            assert (await one.client.post(f"{at}/{what}", data={"token": one.token})).status_code == 409
        assert (await one.state(at))["busy"]
        assert (await one.last(other, "say", "meanwhile"))["answer"]
        house.model.pause.set()
        while (told := await first.line())["kind"] != "state":
            pass
        await first.task
        assert [turn["question"] for turn in told["turns"]] == ["be slow"]
        assert (await one.last(at, "accept"))["verdict"] == "accepted"


async def test_what_is_dropped_in_the_middle_can_be_gone_on_with(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin()
        await one.act(at, "say", "owls")
        house.model.pause.clear()
        dropped = Stream(house, at, do="say", text="be slow")
        await house.model.begun.wait()
        await dropped.drop()
        state = await one.state(at)
        while state["busy"]:
            state = await one.state(at)
        assert state["pending"] and [turn["question"] for turn in state["turns"]] == ["owls", "be slow"]
        assert state["turns"][-1]["answer"] is None and state["turns"][-1]["drafts"] == []
        house.model.pause.set()
        turn = await one.last(at, "resume")
        assert turn["question"] == "be slow" and turn["answer"].startswith("mended")
        assert not (await one.state(at))["pending"]


async def test_an_answer_that_was_cut_off_by_the_end_of_the_program_is_there_afterwards(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin()
        house.model.pause.clear()
        begun = Stream(house, at, do="say", text="be slow")
        await house.model.begun.wait()
    await asyncio.wait_for(begun.task, 20)
    assert house.closed == [None], "who was opened is closed, whatever was going on"
    again = House(house.root)
    async with again.visited() as one:
        assert (await one.state(at))["pending"] and again.open == []
        turn = await one.last(at, "accept")
        assert turn["answer"].startswith("mended") and turn["verdict"] == "accepted"
        again.model.pause.clear()
        begun = Stream(again, at, do="say", text="again, be slow")
        await again.model.begun.wait()
        await begun.drop()
        while (await one.state(at))["busy"]:
            pass
        assert (await one.last(at, "undo"))["question"] == "be slow"
        assert not (await one.state(at))["pending"]


async def test_a_model_that_fails_is_told_and_can_be_asked_again(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin()
        told = await one.act(at, "say", "fail")
        assert told[-2] == {"kind": "error", "text": "the model gave no answer."} and told[-1]["pending"]
        assert (await one.act(at, "resume"))[-1]["pending"]
        assert await one.last(at, "undo") == {}


async def test_whoever_answers_is_opened_when_first_asked_and_for_one_run_at_a_time(house: House) -> None:
    async with house.visited() as one:
        at = await one.begin("/runs/mine/chat")
        page = (await one.client.get(at)).text
        await one.client.get("/runs/mine/chat")
        await one.act(at, "name", "owls")
        await one.state(at)
        assert house.open == [] and '<option value="champion">' in page and '<option value="self_consistency">' in page
        house.fails = True
        told = await one.act(at, "say", "owls")
        assert [line["kind"] for line in told] == ["opening", "error"] and "did not start" in told[-1]["text"]
        house.fails = False
        assert (await one.act(at, "say", "owls"))[0]["kind"] == "opening"
        assert (await one.act(at, "say", "cats"))[0]["kind"] != "opening"
        assert house.open == ["mine"] and house.closed == []
        await one.act(at.replace("/runs/mine", ""), "say", "dogs")
        assert house.open == ["mine", None] and house.closed == ["mine"]
    assert house.closed == ["mine", None]


@pytest.mark.parametrize("yes", [True, False])
async def test_a_tool_waits_for_a_yes(tmp_path: Path, yes: bool) -> None:
    house = House(tmp_path, tooled=True)
    async with house.visited() as one:
        at = await one.begin()
        told = await one.act(at, "say", "owls")
        assert "write" in told[-1]["question"]["ask"] and house.written == []
        assert "owls" in told[-1]["question"]["reasons"][0]
        assert (await one.act(at, "accept"))[-2]["kind"] == "error"
        assert (await one.state(at))["question"] is not None
        told = await one.act(at, "allow" if yes else "deny")
        (call,) = told[-1]["turns"][-1]["drafts"][0]["calls"]
        assert call["call"]["name"] == "write" and call["result"]["ok"] is yes
        assert house.written == (["owls"] if yes else []) and told[-1]["question"] is None
        assert next(line["calls"] for line in told if line["kind"] == "calls") == [call]


async def test_a_model_of_our_own_answers_where_no_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.install(monkeypatch.setattr, tmp_path / "model")
    threads, source = tmp_path / "threads.sqlite", Source(run=None, model="small", remote=None, base_url=None)
    opener = opener_of(source, ToolsConfig(), threads, lambda: nullcontext(Silent()), rounds=0)
    async with opener(None) as place:
        talk = place.talk()
        events = [event async for event in talk.line("the arithmetic problem: 1 + 1 =")]
        turn = await talk.turn()
    assert [event.kind for event in events if isinstance(event, Event)][-1] == "end"
    assert turn is not None and turn.answer is not None and turn.drafts[0].policy == 0


async def test_a_run_answers_also_where_a_remote_model_does_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Source] = []

    @asynccontextmanager
    async def noted(source: Source, *_: Any, **__: Any) -> AsyncIterator[Voices]:
        asked.append(source)
        yield voices()

    monkeypatch.setattr(standby, "open_voices", noted)
    source = Source(run=None, remote="openai/some", base_url="http://127.0.0.1:1")
    opener = opener_of(source, ToolsConfig(), tmp_path / "threads.sqlite", lambda: nullcontext(Silent()))
    for run in (None, RunDir(tmp_path)):
        async with opener(run):
            pass
    assert asked == [source, Source(run=tmp_path)]
