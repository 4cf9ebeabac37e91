"""Chats against a scripted model: what the agents do about each act of the person, and that nothing of it is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import interrupt

from autotelic.core.errors import ServingError, UsageError
from autotelic.core.words import Message
from autotelic.graphs.acts import Accept, Attached, Choose, Compare, Edit, Rate, Reject, Retry, Say, Turn, Who, Wrong
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.chats import Chats, open_chats
from autotelic.graphs.chatting import ChatContext, build_chat
from autotelic.graphs.oversight import answer, decided
from autotelic.serving import Gateway, Sampling, ScriptedBackend, TooLong
from autotelic.store import ApprovalRow, DecisionRow, Ledger
from autotelic.tools import Toolbox, tool


class Killed(BaseException):
    pass


class Model(ScriptedBackend):
    """Answers `draft N to QUESTION`; as critic it says what `judges` says. Dies at the calls in `dies_at`."""

    def __init__(self, *judges: bool, dies_at: tuple[int, ...] = ()) -> None:
        self.judges = list(judges)
        self.asked: list[list[Message]] = []
        self.drafts = 0
        self.dies_at = dies_at
        super().__init__(self._say)

    def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
        self.asked.append([*messages])
        if len(self.asked) in self.dies_at:
            raise Killed
        if sampling.schema is not None:
            right = self.judges.pop(0) if self.judges else True
            said = {"verdict": "right" if right else "wrong", "fault": "" if right else "too short", "advice": "more"}
            return [json.dumps(said)] * sampling.n
        self.drafts += 1
        return [f"draft {self.drafts} to {messages[-1].content[:20]}"] * sampling.n


@asynccontextmanager
async def chats(place: Path, model: ScriptedBackend, **more: Any) -> AsyncIterator[Chats]:
    gateway = Gateway(model, attempts=1)
    gateway.unblock(3)
    async with open_chats(place / "threads.sqlite", build_chat(ChatContext(GraphContext(gateway), **more))) as opened:
        yield opened


async def act(opened: Chats, chat: str, *acts: Any) -> Turn:
    for one in acts:
        async for _ in opened.act(chat, one):
            pass
    return (await opened.turns(chat))[-1]


async def test_drafts_are_criticised_and_revised_until_one_stands(tmp_path: Path) -> None:
    model = Model(False, True)
    async with chats(tmp_path, model) as opened:
        chat = (await opened.begin()).id
        heard = [event async for event in opened.act(chat, Say(text="What is it?"))]
        (turn,) = await opened.turns(chat)
    assert turn.answer == turn.drafts[1].text and [d.critique and d.critique.verdict for d in turn.drafts] == [
        "wrong",
        "right",
    ]
    assert [event.node for event in heard if event.kind == "node"] == [
        "hear", "draft", "criticise", "draft", "criticise", "settle",
    ]  # fmt: skip
    tokens = [event.data for event in heard if event.kind == "token"]
    assert tokens == [draft.text for draft in turn.drafts]
    assert model.asked[2][-2].content == turn.drafts[0].text and "too short more" in model.asked[2][-1].content


async def test_revisions_end_and_the_draft_that_was_liked_best_stands(tmp_path: Path) -> None:
    async with chats(tmp_path, Model(False, False, False), rounds=2) as opened:
        turn = await act(opened, (await opened.begin()).id, Say(text="What?"))
    assert len(turn.drafts) == 3 and turn.answer == turn.drafts[0].text
    async with chats(tmp_path, Model(False), rounds=0) as opened:
        turn = await act(opened, (await opened.begin()).id, Say(text="What?"))
    assert len(turn.drafts) == 1 and turn.drafts[0].critique is None


async def test_a_person_says_what_is_wrong_edits_and_judges(tmp_path: Path) -> None:
    model = Model()
    async with chats(tmp_path, model) as opened:
        chat = (await opened.begin()).id
        await act(opened, chat, Say(text="What?"))
        turn = await act(opened, chat, Wrong(text="say the unit"))
        assert turn.complaints == ("say the unit",) and turn.answer == "draft 2 to That is not right ye"
        assert "say the unit" in model.asked[-1][-1].content
        turn = await act(opened, chat, Edit(text="3 km"), Rate(stars=4))
        assert (turn.answer, turn.before, turn.verdict, turn.stars) == (
            "3 km",
            "draft 2 to That is not right ye",
            "edited",
            4,
        )
        turn = await act(opened, chat, Wrong(text="still"))
        assert model.asked[-1][-2].content == "3 km" and turn.verdict is None
        assert (await act(opened, chat, Accept())).verdict == "accepted"
        assert (await act(opened, chat, Reject())).verdict == "rejected"


async def test_what_was_said_goes_on_without_what_was_rejected(tmp_path: Path) -> None:
    model = Model()
    file = Attached(name="a.txt", text="the file's text")
    async with chats(tmp_path, model, rounds=0) as opened:
        chat = (await opened.begin()).id
        await act(
            opened, chat, Say(text="one"), Edit(text="ONE"), Say(text="two"), Reject(), Say(text="3", files=(file,))
        )
    said = [(m.role, m.content) for m in model.asked[-1]]
    assert said[1:] == [("user", "one"), ("assistant", "ONE"), ("user", "a.txt:\nthe file's text\n\n3")]


async def test_retry_by_another_strategy_begins_the_answer_anew(tmp_path: Path) -> None:
    model = Model()
    async with chats(tmp_path, model) as opened:
        chat = (await opened.begin()).id
        await act(opened, chat, Say(text="What?"), Wrong(text="no"))
        turn = await act(opened, chat, Retry(who=Who(strategy="self_consistency(n=3)")))
    assert turn.complaints == () and len(turn.drafts) == 1 and turn.who.strategy == "self_consistency(n=3)"


async def test_two_answers_are_compared_without_names(tmp_path: Path) -> None:
    seen: list[int | None] = []

    @asynccontextmanager
    async def speaking(policy: int | None) -> AsyncIterator[int | None]:
        seen.append(policy)
        yield 7 if policy is None else policy

    firsts = set()
    async with chats(tmp_path, Model(), rounds=0, speaking=speaking) as opened:
        for _ in range(8):
            chat = (await opened.begin()).id
            turn = await act(opened, chat, Say(text="What?"), Compare(who=(Who(policy=1), Who(policy=2))))
            assert turn.pair is not None and {one.policy for one in turn.pair} == {1, 2} and turn.chosen is None
            firsts.add(turn.pair[0].policy)
            turn = await act(opened, chat, Choose(index=1))
            assert turn.pair is not None and turn.answer == turn.pair[1].text and turn.verdict == "accepted"
    assert firsts == {1, 2}, "the order tells nothing"
    assert seen[:3] == [None, 1, 2]


async def test_acts_are_taken_back_one_by_one(tmp_path: Path) -> None:
    async with chats(tmp_path, Model(), rounds=0) as opened:
        chat = (await opened.begin()).id
        await act(opened, chat, Say(text="one"), Edit(text="ONE"), Say(text="two"))
        assert [turn.question for turn in await opened.undo(chat)] == ["one"]
        assert (await opened.undo(chat))[0].answer == "draft 1 to one"
        turn = await act(opened, chat, Edit(text="other"))
        assert turn.before == "draft 1 to one"
        assert (await opened.undo(chat))[0].verdict is None
        assert await opened.undo(chat) == [] and (await opened.find(chat)).turns == 0
        with pytest.raises(UsageError, match="nothing to undo"):
            await opened.undo(chat)
        assert (await act(opened, chat, Say(text="again"))).question == "again"


async def test_a_fork_and_its_source_go_their_own_ways(tmp_path: Path) -> None:
    async with chats(tmp_path, Model(), rounds=0) as opened:
        chat = (await opened.begin("mine", learn=True)).id
        await act(opened, chat, Say(text="one"))
        fork = await opened.fork(chat)
        assert fork.name == "mine (fork)" and not fork.learn, "who allowed one chat did not allow another"
        await act(opened, fork.id, Say(text="two"))
        assert [len(await opened.turns(one)) for one in (chat, fork.id)] == [1, 2]


async def test_what_a_fork_began_with_is_not_undone(tmp_path: Path) -> None:
    async with chats(tmp_path, Model(), rounds=0) as opened:
        chat = (await opened.begin()).id
        await act(opened, chat, Say(text="one"))
        fork = (await opened.fork(chat)).id
        with pytest.raises(UsageError, match="nothing to undo"):
            await opened.undo(fork)
        await act(opened, fork, Say(text="two"))
        assert [turn.question for turn in await opened.undo(fork)] == ["one"]
        with pytest.raises(UsageError, match="nothing to undo"):
            await opened.undo(fork)
        assert [turn.question for turn in await opened.turns(fork)] == ["one"]


async def test_chats_are_found_renamed_exported_and_forgotten(tmp_path: Path) -> None:
    async with chats(tmp_path, Model(False), rounds=1) as opened:
        first, second = (await opened.begin()).id, (await opened.begin("plans")).id
        await act(opened, first, Say(text="How far is the moon?"), Edit(text="384,400 km"))
        await act(opened, second, Say(text="Plan my day"))
        assert [one.name for one in await opened.all("MOON far")] == ["How far is the moon?"]
        assert [one.id for one in await opened.all("384,400")] == [first]
        assert (await opened.find("plans")).id == second
        assert (await opened.change(second, name="day")).name == "day" and (await opened.find("day")).turns == 1
        with pytest.raises(UsageError, match="no chat 'plans'"):
            await opened.find("plans")
        text = await opened.export(first, "markdown")
        assert "384,400 km" in text and "too short" in text and "(edited)" in text
        data = json.loads(await opened.export(first, "json"))
        assert data["turns"][0]["before"] and data["id"] == first
        await opened.forget(first)
        assert await opened.turns(first) == [] and [one.id for one in await opened.all()] == [second]
    for file in tmp_path.glob("threads*"):
        assert b"384,400" not in file.read_bytes(), file


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
async def test_cut_off_in_the_middle_of_an_answer_it_goes_on(tmp_path: Path, dies_at: int) -> None:
    model = Model(False, False, dies_at=(dies_at,))
    async with chats(tmp_path, model, rounds=1) as opened:
        chat = (await opened.begin()).id
        with pytest.raises(Killed):
            await act(opened, chat, Say(text="What?"))
    async with chats(tmp_path, model, rounds=1) as opened:
        assert await opened.pending(chat)
        async for _ in opened.resume(chat):
            pass
        (turn,) = await opened.turns(chat)
        assert len(turn.drafts) == 2 and turn.answer is not None
        assert len(model.asked) == 5, "nothing is asked twice but the call that was cut off"
        assert not await opened.pending(chat)


async def test_a_model_that_fails_leaves_the_chat_to_go_on(tmp_path: Path) -> None:
    async def down(_: Any, __: Any) -> list[str]:
        raise ServingError("the server is down")

    async with chats(tmp_path, ScriptedBackend(down), rounds=0) as opened:
        chat = (await opened.begin()).id
        with pytest.raises(ServingError):
            await act(opened, chat, Say(text="What?"))
    async with chats(tmp_path, Model(), rounds=0) as opened:
        turn = await act(opened, chat, Say(text="And now?"))
        assert turn.question == "And now?" and [t.answer for t in await opened.turns(chat)] == [
            "draft 1 to What?",
            "draft 2 to And now?",
        ]


@pytest.mark.parametrize(
    ("given", "says"),
    [(Accept(), "nothing was said yet"), (Choose(index=0), "nothing was said yet")],
)
async def test_acts_that_come_too_early_are_refused(tmp_path: Path, given: Any, says: str) -> None:
    async with chats(tmp_path, Model(), rounds=0) as opened:
        chat = (await opened.begin()).id
        with pytest.raises(UsageError, match=says):
            await act(opened, chat, given)
        assert (await act(opened, chat, Say(text="hello"))).answer is not None
        with pytest.raises(UsageError, match="nothing to choose from"):
            await act(opened, chat, Choose(index=0))


async def test_chats_at_two_places_at_once_do_not_hinder_each_other(tmp_path: Path) -> None:
    async with chats(tmp_path, Model(), rounds=0) as one, chats(tmp_path, Model(), rounds=0) as other:

        async def talk(opened: Chats, name: str) -> None:
            chat = (await opened.begin(name)).id
            for number in range(5):
                await act(opened, chat, Say(text=f"{name} {number}"))

        await asyncio.gather(*(talk(place, f"{n}") for n in range(12) for place in (one, other)))
        assert [chat.turns for chat in await one.all()] == [5] * 24


async def test_many_chats_at_once_do_not_mix(tmp_path: Path) -> None:
    async with chats(tmp_path, Model(), rounds=0) as opened:
        ids = [(await opened.begin()).id for _ in range(20)]
        await asyncio.gather(*(act(opened, chat, Say(text=f"question {chat}")) for chat in ids))
        for chat in ids:
            (turn,) = await opened.turns(chat)
            assert turn.question == f"question {chat}" and turn.answer is not None


class Caller(ScriptedBackend):
    """Calls what it is told to, one turn after the other, then answers with the last result it saw."""

    def __init__(self, *turns: list[dict[str, Any]]) -> None:
        self.turns = list(turns)
        self.asked: list[list[Message]] = []
        super().__init__(self._say)

    def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
        self.asked.append([*messages])
        if sampling.tools and self.turns:
            return [json.dumps({"calls": self.turns.pop(0)})]
        if sampling.tools:
            return [json.dumps({"answer": f"it says {messages[-1].content}"})]
        return [json.dumps({"verdict": "right", "fault": "", "advice": ""})] * sampling.n


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": tool, "arguments": arguments}


@asynccontextmanager
async def tooled(place: Path, model: ScriptedBackend, done: list[str], **more: Any) -> AsyncIterator[Chats]:
    """Chats with a tool that may be called and one that a person has to allow; `done` has what was written."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def write(text: str) -> str:
        """Write it down."""
        done.append(text)
        return f"wrote {text}"

    box = Toolbox([tool(permission="pure")(add), tool(permission="writes")(write)])
    gateway = Gateway(model, attempts=1)
    gateway.unblock(3)
    answers = GraphContext(gateway, toolbox=box.opened())
    asks = frozenset(one.name for one in box.refused)
    async with open_chats(place / "threads.sqlite", build_chat(ChatContext(answers, asks=asks, **more))) as opened:
        yield opened


async def test_tools_are_called_and_what_came_of_it_is_kept(tmp_path: Path) -> None:
    model = Caller([call("add", a=2, b=3), call("add", a=1, b=1)])
    async with tooled(tmp_path, model, []) as opened:
        chat = (await opened.begin()).id
        heard = [event async for event in opened.act(chat, Say(text="2 + 3?"))]
        (turn,) = await opened.turns(chat)
        assert turn.answer == "it says 2"
        assert [record.result.content for record in turn.drafts[0].calls] == ["5", "2"]
        assert "".join(event.data for event in heard if event.kind == "token") == "it says 2"
        turn = await act(opened, chat, Say(text="And now?"))
        said = [m.content for m in model.asked[-2] if m.role == "assistant"]
        assert said == ['{"answer":"it says 2"}'], "what was said before is in the form that is asked for"
        assert "`add {" in await opened.export(chat, "markdown")


@pytest.mark.parametrize("yes", [True, False])
async def test_a_call_that_nobody_allowed_waits_for_the_person(tmp_path: Path, yes: bool) -> None:
    done: list[str] = []
    model = Caller([call("add", a=2, b=3), call("write", text="five")])
    async with tooled(tmp_path, model, done) as opened:
        chat = (await opened.begin()).id
        heard = [event async for event in opened.act(chat, Say(text="Write 2 + 3"))]
        assert heard[-1].kind == "question" and heard[-1].data[0]["ask"] == "call write?"
        assert done == [], "nothing is called before the answer"
        with pytest.raises(UsageError, match="first this waits for you: call write"):
            await act(opened, chat, Say(text="hurry"))
    async with tooled(tmp_path, model, done) as opened:  # after another start
        question = await opened.question(chat)
        assert question is not None and '"five"' in question["reasons"][0]
        async for _ in opened.answer(chat, yes):
            pass
        (turn,) = await opened.turns(chat)
        assert done == ["five"] * yes and len(model.asked) == 3, "nothing is asked twice"
        assert [record.result.reason for record in turn.drafts[0].calls] == ["ok", "ok" if yes else "refused"]
        assert turn.answer == ("it says wrote five" if yes else "it says write was not called: a person refused it")
        with pytest.raises(UsageError, match="nothing waits"):
            async for _ in opened.answer(chat, yes):
                pass


async def test_killed_after_the_answer_the_person_is_not_asked_again(tmp_path: Path) -> None:
    done: list[str] = []

    class Dies(Caller):
        def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
            if any(m.role == "tool" for m in messages) and len(self.asked) == 1:
                self.asked.append([])
                raise Killed
            return super()._say(messages, sampling)

    model = Dies([call("write", text="five")])
    async with tooled(tmp_path, model, done) as opened:
        chat = (await opened.begin()).id
        await act(opened, chat, Say(text="Write 5"))
        with pytest.raises(Killed):
            async for _ in opened.answer(chat, True):
                pass
    async with tooled(tmp_path, model, done) as opened:
        assert await opened.question(chat) is None and await opened.pending(chat)
        async for _ in opened.resume(chat):
            pass
        assert (await opened.turns(chat))[0].answer == "it says wrote five" and done == ["five"], "written once"


async def test_what_waits_can_be_taken_back(tmp_path: Path) -> None:
    async with tooled(tmp_path, Caller([call("write", text="x")]), []) as opened:
        chat = (await opened.begin()).id
        await act(opened, chat, Say(text="one"))
        assert await opened.undo(chat) == [] and await opened.question(chat) is None
        assert (await act(opened, chat, Say(text="two"))).answer is not None


async def test_a_decision_about_a_tool_is_in_the_runs_log_and_may_come_from_elsewhere(tmp_path: Path) -> None:
    done: list[str] = []
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:

        def decide(subject: str, question: dict[str, Any]) -> bool:
            return decided(ledger, "tool", subject, question, interrupt)

        model = Caller([call("write", text="x")], [call("write", text="y")])
        async with tooled(tmp_path, model, done, decide=decide) as opened:
            chat = (await opened.begin()).id
            await act(opened, chat, Say(text="one"))
            (row,) = ledger.rows(ApprovalRow)
            assert row.kind == "tool" and row.subject.startswith("chat/")
            answer(ledger, row.id, True, by="ada")
            async for _ in opened.resume(chat):
                pass
            assert done == ["x"] and (await opened.question(chat) or {})["reasons"] == ['write {"text": "y"}']
            async for _ in opened.answer(chat, False):
                pass
        assert done == ["x"] and [row.answer for row in ledger.rows(DecisionRow, order="number")] == [True, False]


def writer(messages: Sequence[Message], sampling: Sampling) -> list[str]:
    """Writes x, whatever it is asked, and then says what came of it."""
    if not sampling.tools:
        return [json.dumps({"verdict": "right", "fault": "", "advice": ""})] * sampling.n
    said = messages[-1].content
    return [json.dumps({"answer": said} if messages[-1].role == "tool" else {"calls": [call("write", text="x")]})]


@pytest.mark.parametrize("again", [Retry(), Wrong(text="once more")])
async def test_what_was_decided_in_one_act_is_asked_again_in_the_next(tmp_path: Path, again: Any) -> None:
    done: list[str] = []
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:

        def decide(subject: str, question: dict[str, Any]) -> bool:
            return decided(ledger, "tool", subject, question, interrupt)

        model = ScriptedBackend(writer)
        async with tooled(tmp_path, model, done, decide=decide) as opened:
            chat = (await opened.begin()).id
            await act(opened, chat, Say(text="Write x"))
            async for _ in opened.answer(chat, True):
                pass
            await act(opened, chat, again)
            asked = await opened.question(chat)
            assert asked is not None and done == ["x"], "an equal call of another act was not allowed"
        async with tooled(tmp_path, model, done, decide=decide) as opened:  # the same after another start
            assert await opened.question(chat) == asked
            async for _ in opened.answer(chat, False):
                pass
        assert done == ["x"] and [row.answer for row in ledger.rows(DecisionRow, order="number")] == [True, False]


async def test_a_strategy_calls_no_tool_that_a_person_has_to_allow(tmp_path: Path) -> None:
    done: list[str] = []
    model = Caller([call("write", text="five")], [call("add", a=1, b=1)])
    async with tooled(tmp_path, model, done) as opened:
        chat = (await opened.begin()).id
        first = await act(opened, chat, Say(text="Write 5", who=Who(strategy="tool_loop")))
        assert done == [] and await opened.question(chat) is None
        assert first.answer == "it says 2", "the call that is not offered came to nothing, the next one to a sum"
        await act(opened, chat, Compare(who=(Who(strategy="tool_loop"), Who(strategy="direct"))))
        assert done == []


async def test_a_strategy_hears_what_was_said_as_it_was_said(tmp_path: Path) -> None:
    model = Caller()
    async with tooled(tmp_path, model, []) as opened:
        chat = (await opened.begin()).id
        await act(opened, chat, Say(text="one"))
        await act(opened, chat, Say(text="two", who=Who(strategy="direct")))
        assert [m.content for m in model.asked[-1] if m.role == "assistant"] == ["it says one"]
        await act(opened, chat, Compare(who=(Who(), Who(strategy="direct"))))
        assert all('{"answer"' not in m.content for talk in model.asked[-2:] for m in talk)


async def test_an_answer_carries_what_it_cost_and_what_it_was_made_of(tmp_path: Path) -> None:
    async with chats(tmp_path, Model(False, True)) as opened:
        chat = (await opened.begin()).id
        plain = await act(opened, chat, Say(text="What?"))
        assert [d.price is not None and d.price.calls for d in plain.drafts] == [1, 1]
        [voted] = (await act(opened, chat, Say(text="And?", who=Who(strategy="self_consistency(n=3)")))).drafts
        assert voted.price is not None and voted.price.tokens > 0 and len(voted.of) == 3 and voted.stopped == ""
    async with tooled(tmp_path / "more", Caller([call("add", a=2, b=3)]), [], rounds=0) as opened:
        [said] = (await act(opened, (await opened.begin()).id, Say(text="2 + 3?"))).drafts
        assert said.price is not None and said.price.calls == 2, "of all turns with tools"


async def test_what_was_said_first_is_left_out_for_a_strategy_too(tmp_path: Path) -> None:
    class Short(Model):
        def _say(self, messages: Sequence[Message], sampling: Sampling) -> list[str]:
            if len(messages) > 4:
                raise TooLong("no room")
            return super()._say(messages, sampling)

    model = Short()
    async with chats(tmp_path, model, rounds=0) as opened:
        chat = (await opened.begin()).id
        await act(opened, chat, *(Say(text=f"question {n}") for n in range(2)))
        turn = await act(opened, chat, Say(text="the last", who=Who(strategy="self_consistency(n=3)")))
    assert turn.answer is not None and "to the last" in turn.answer and len(model.asked[-1]) == 4
