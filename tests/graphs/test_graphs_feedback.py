"""What people say becomes data: by consent, as it stands, and gone when it is taken back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.core.errors import UsageError
from autotelic.graphs.acts import Said, Turn
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.chats import Chat, open_chats
from autotelic.graphs.chatting import ChatContext, build_chat
from autotelic.graphs.feedback import feedback_of, keep_feedback
from autotelic.serving import Gateway, ScriptedBackend
from autotelic.store import CurationRow, ExampleRow, FeedbackRow, GateRow, Ledger, SuiteRow
from autotelic.ui.talk import Note, Talk
from autotelic.ui.voices import Voices

CHAT = Chat(id="c1", name="", created_at="", updated_at="", learn=True)


def turn(number: int, **more: Any) -> Turn:
    drafts = (Said(text=f"draft {number}", policy=3),)
    return Turn(id=f"t{number}", question=f"question {number}", drafts=drafts, **more)


def test_what_was_accepted_edited_or_chosen_can_be_learned() -> None:
    pair = (Said(text="left"), Said(text="right"))
    turns = [
        turn(1, answer="draft 1", verdict="accepted"),
        turn(2, answer="better", before="draft 2", verdict="edited"),
        turn(3, answer="right", pair=pair, chosen=1, verdict="accepted"),
        turn(4, answer="mended", complaints=("no",), verdict="accepted", stars=5),
        turn(5, answer="draft 5"),
        turn(6, answer="draft 6", verdict="rejected"),
        turn(7, answer="draft 7", verdict="accepted", stars=2),
    ]
    rows = feedback_of(CHAT, turns)
    assert [(row.kind, row.chosen, row.rejected) for row in rows] == [
        ("accepted", "draft 1", None),
        ("edited", "better", "draft 2"),
        ("chosen", "right", "left"),
        ("accepted", "mended", "draft 4"),
    ]
    assert [message["content"] for message in rows[1].messages][1:] == ["question 1", "draft 1", "question 2"]
    assert rows[3].comments == ["no"] and rows[0].policy == 3


def test_the_ledger_holds_what_stands_and_nothing_without_consent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    other = CHAT.model_copy(update={"id": "c2"})
    said = [turn(1, answer="a", verdict="accepted"), turn(2, answer="b", verdict="accepted")]
    assert keep_feedback(ledger, CHAT, said) == 2 and keep_feedback(ledger, other, said) == 2
    first = ledger.rows(FeedbackRow, id="c1/t1")[0].at
    assert keep_feedback(ledger, CHAT, said[:1]) == 1, "what is undone is gone"
    assert ledger.rows(FeedbackRow, id="c1/t1")[0].at == first
    assert keep_feedback(ledger, CHAT.model_copy(update={"learn": False}), said) == 0
    assert {row.chat for row in ledger.rows(FeedbackRow)} == {"c2"}
    ledger.close()


@asynccontextmanager
async def talking(place: Path, ledger: Ledger | None, *, learn: bool) -> AsyncIterator[Talk]:
    gateway = Gateway(ScriptedBackend(lambda messages, sampling: [f"draft of {messages[-1].content}"] * sampling.n))
    gateway.unblock(0)
    voices = Voices(GraphContext(gateway), ledger=ledger)
    graph = build_chat(ChatContext(voices.context, voices.speaking, rounds=0))
    async with open_chats(place / "threads.sqlite", graph) as chats:
        yield Talk(chats, voices, learn=learn)


async def say(talk: Talk, *lines: str) -> str:
    said = ""
    for line in lines:
        async for event in talk.line(line):
            said = event.text if isinstance(event, Note) else said
    return said


async def test_by_consent_of_each_chat_and_taken_back_with_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    async with talking(tmp_path, ledger, learn=False) as talk:
        await say(talk, "one", "/edit ONE")
        assert not ledger.count(FeedbackRow), "off by default"
        assert "may be trained on" in await say(talk, "/learn on")
        assert ledger.count(FeedbackRow) == 1
        await say(talk, "/undo")
        assert not ledger.count(FeedbackRow)
        await say(talk, "/accept", "/fork", "two", "/accept")
        assert ledger.count(FeedbackRow) == 1, "a fork is asked for itself"
        await say(talk, "/learn on")
        assert ledger.count(FeedbackRow) == 3
        await say(talk, "/learn off")
        assert ledger.count(FeedbackRow) == 1
    async with talking(tmp_path, None, learn=False) as talk:
        with pytest.raises(UsageError, match="no run that could learn"):
            await say(talk, "/learn on")
    ledger.close()


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


def teach(run: Path, questions: list[str]) -> None:
    ledger = Ledger(run / "ledger.sqlite")
    said = [turn(n, answer="in one line", before="long", verdict="edited") for n in range(len(questions))]
    said = [one.model_copy(update={"question": question}) for one, question in zip(said, questions, strict=True)]
    keep_feedback(ledger, CHAT, said)
    ledger.close()


def test_a_person_teaches_and_decides(copied: Path) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    with pytest.raises(UsageError, match="nobody has said anything"):
        invoke("train", copied, "--feedback")
    suite = ledger.tasks([ledger.rows(SuiteRow, suite="sealed")[0].task_id])
    (leaked,) = suite.values()
    teach(copied, ["How far?", "How long?", leaked.question, "How far?"])
    asked = invoke("train", copied, "--feedback", "--json")
    assert asked.exit_code in (0, 3)
    rows = ledger.rows(ExampleRow, origin="said")
    assert {row.question for row in rows} >= {"How far?", "How long?"} and leaked.question not in {
        row.question for row in rows
    }
    reasons = {row.reason for row in ledger.rows(CurationRow, family="chat", kept=False)}
    assert "suite_question" in reasons
    round = rows[0].round
    if asked.exit_code == 3:
        assert "promote policy-" in json.loads(asked.stdout)["waiting"]["ask"]
        assert ledger.get(GateRow, round) is None
        assert invoke("train", copied, "--feedback", "--refuse").exit_code == 0
    decided = ledger.get(GateRow, round)
    assert decided is not None and not decided.promoted
    ledger.close()


def test_the_whole_way_from_lines_to_a_training(copied: Path, simulate: Callable[..., None]) -> None:
    ledger = Ledger(copied / "ledger.sqlite")

    async def chat() -> None:
        async with talking(copied, ledger, learn=True) as talk:
            for n in range(6):
                await say(talk, f"question {n}", f"/edit answer {n} km")

    asyncio.run(chat())
    invoke("train", copied, "--feedback", "--approve")
    learned = {row.completion for row in ledger.rows(ExampleRow, origin="said")}
    assert learned == {f"answer {n} km" for n in range(6)}
    ledger.close()
