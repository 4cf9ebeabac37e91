"""What a run learns from a chat, in step with the chat, wherever somebody goes on with it.

A chat names the one run that may: all runs share the chats. What follows from the chat as it stands is in the ledger of
that run and of no other; where that ledger is out of reach the person is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from autotelic.core.errors import StoreError, UsageError
from autotelic.core.run_dir import RunDir
from autotelic.graphs.chats import Chat, Chats
from autotelic.graphs.feedback import keep_feedback
from autotelic.graphs.oversight import withdraw
from autotelic.store import FeedbackRow, Ledger
from autotelic.ui.voices import Voices

__all__ = ["allow_learning", "follow", "let_go", "run_of"]


def run_of(voices: Voices) -> str:
    """Return what a chat calls the run at hand; empty without one."""
    return "" if voices.run is None else str(voices.run.root)


async def follow(chats: Chats, voices: Voices, id: str) -> str:
    """Have the run that may learn from a chat hold what follows from it now, and the run at hand nothing otherwise.

    Returns:
        Why that could not be, for the person; empty if it could.
    """
    chat, here, ledger = await chats.find(id), run_of(voices), voices.ledger
    turns = await chats.turns(id)
    try:
        chat = await _placed(chats, voices, chat)
        if ledger is not None:
            keep_feedback(ledger, chat.model_copy(update={"learn": chat.learn and chat.run == here}), turns)
        if chat.run and chat.run != here:
            with closing(_ledger(chat.run)) as other:
                keep_feedback(other, chat, turns)
    except StoreError as error:
        return (
            f"the run {chat.run or here} may still be trained on what was said here before, it cannot be reached: "
            f"{error} Say /learn off or /learn on when it can."
        )
    return ""


async def allow_learning(chats: Chats, voices: Voices, id: str, learn: bool) -> Chat:
    """Have the run at hand learn from a chat, or none; a run that was allowed to before lets go of it first.

    Raises:
        UsageError: that run is out of reach or not known, and what it was to learn stays.
    """
    here, chat = run_of(voices) if learn else "", await _placed(chats, voices, await chats.find(id))
    unnamed = chat.learn and not chat.run
    if chat.run != here or unnamed:
        await chats.change(id, learn=False)
        if fault := await follow(chats, voices, id):
            raise UsageError(fault)
    if unnamed:
        raise UsageError(
            "no more is learned from this chat, but it was allowed under a run that older chats do not name. What that "
            "run has learned it may still be trained on: open the chat with it and say /learn off there."
        )
    changed = await chats.change(id, learn=learn, run=here)
    if fault := await follow(chats, voices, id):
        raise UsageError(fault)
    return changed


def let_go(chat: Chat, asked: dict[str, Any] | None, runs: Iterable[str]) -> list[str]:
    """Take what comes of a chat that is to be deleted out of these runs, and out of the one that may learn from it.

    Args:
        chat: the chat.
        asked: what it waits for a person to answer.
        runs: directories of runs.

    Returns:
        Where that could not be, in words.
    """
    left = []
    for run in dict.fromkeys([*runs, *([chat.run] if chat.run else [])]):
        try:
            with closing(_ledger(run)) as ledger:
                keep_feedback(ledger, chat.model_copy(update={"learn": False}), [])
                withdraw(ledger, asked)
        except StoreError as error:
            left.append(f"{run}: {error}")
    return left


async def _placed(chats: Chats, voices: Voices, chat: Chat) -> Chat:
    """Have an older chat name the run that may learn from it: the one at hand, if that holds something of it."""
    ledger = voices.ledger
    if chat.learn and not chat.run and ledger is not None and ledger.count(FeedbackRow, chat=chat.id):
        return await chats.change(chat.id, run=run_of(voices))
    return chat


def _ledger(run: str) -> Ledger:
    """Open the ledger of a run that is there: opening makes one where none is.

    Raises:
        StoreError: none is there, or it cannot be opened.
    """
    place = RunDir(Path(run))
    if not place.exists():
        raise StoreError("no run is there.")
    return Ledger(place.ledger)
