"""What a person types: mistakes are told in a line, and nothing that was given is lost by them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.ui.chatting import voices
from typer.testing import CliRunner

from autotelic.cli.app import app
from autotelic.core.errors import UsageError
from autotelic.graphs.chats import open_chats
from autotelic.graphs.chatting import build_chat
from autotelic.ui.talk import Note, Talk


@asynccontextmanager
async def talking(place: Path) -> AsyncIterator[Talk]:
    spoken = voices()
    async with open_chats(place / "threads.sqlite", build_chat(spoken.chat(rounds=0))) as chats:
        yield Talk(chats, spoken)


async def say(talk: Talk, line: str) -> str:
    return "".join([one.text async for one in talk.line(line) if isinstance(one, Note)])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/wrong " + "x" * 4001, "that has 4,001 characters, at most 4,000 are taken"),
        ("/edit " + "x" * 200_001, "at most 200,000 are taken"),
        ("x" * 200_001, "at most 200,000 are taken"),
        ("/attach it's.txt", "cannot be read as the name of a file: No closing quotation"),
        ("/attach ~nobody-of-that-name/x", "no home directory for ~nobody-of-that-name"),
        ("/export ~nobody-of-that-name/x.md", "no home directory for ~nobody-of-that-name"),
        ("/attach a\0b", "cannot be read as text"),
        ("/export a\0b", "no name of a file"),
    ],
)
async def test_a_mistake_is_told_and_ends_nothing(tmp_path: Path, line: str, says: str) -> None:
    async with talking(tmp_path) as talk:
        await say(talk, "owls")
        with pytest.raises(UsageError, match=says):
            await say(talk, line)
        assert len(await talk.chats.turns((await talk.chats.all())[0].id)) == 1
        await say(talk, "/accept")


async def test_files_go_with_the_question_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "birds.txt").write_text("hoot")
    async with talking(tmp_path) as talk:
        await say(talk, f"/attach {tmp_path / 'birds.txt'}")
        with pytest.raises(UsageError):
            await say(talk, "x" * 200_001)
        talk.who = talk.who.model_copy(update={"policy": 7})
        with pytest.raises(UsageError, match="no policy-7"):
            await say(talk, "what is in it?")
        assert await talk.turn() is None
        talk.who = talk.who.model_copy(update={"policy": None})
        for question, files in (("what is in it?", 1), ("and now?", 0)):
            await say(talk, question)
            turn = await talk.turn()
            assert turn is not None and turn.question == question and len(turn.files) == files


def test_a_name_of_a_chat_is_text(tmp_path: Path) -> None:
    async def begin() -> None:
        async with talking(tmp_path) as talk:
            await say(talk, "/new [/b] \x1b[8mhidden")

    asyncio.run(begin())
    found = CliRunner().invoke(app, ["chat", "--list", "--threads", str(tmp_path / "threads.sqlite")])
    assert found.exit_code == 0 and "[/b]" in found.stdout and "\x1b" not in found.stdout


async def test_the_drafts_of_a_strategy_are_shown_with_what_they_cost(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        await say(talk, "/who champion:self-consistency-3")
        await say(talk, "owls")
        told = await say(talk, "/drafts")
        assert told.count("made of (direct") == 3 and "price: 3 calls, " in told
