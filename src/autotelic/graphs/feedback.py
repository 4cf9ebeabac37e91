"""What a person made of answers, as data: by consent, for each chat, and taken back with it.

The rows of a chat always follow from its turns as they stand: an act that is undone, an answer that is rejected after
all, a consent that is withdrawn leaves none.
"""

from __future__ import annotations

from autotelic.graphs.acts import Turn, prompt_of
from autotelic.graphs.chats import Chat
from autotelic.graphs.session import as_dicts
from autotelic.store import FeedbackRow, Ledger

__all__ = ["feedback_of", "keep_feedback"]

_GOOD = 3


def feedback_of(chat: Chat, turns: list[Turn]) -> list[FeedbackRow]:
    """Return what can be learned from a chat: answers that were accepted, edited or chosen, and what they replaced."""
    rows = []
    for index, turn in enumerate(turns):
        if turn.verdict not in ("accepted", "edited") or turn.answer is None or (turn.stars or _GOOD) < _GOOD:
            continue
        rejected = _rejected(turn)
        row = FeedbackRow(
            id=f"{chat.id}/{turn.id}",
            chat=chat.id,
            kind="chosen" if turn.chosen is not None and turn.verdict == "accepted" else turn.verdict,
            messages=as_dicts(prompt_of(turns[: index + 1])),
            chosen=turn.answer,
            rejected=rejected if rejected != turn.answer else None,
            comments=list(turn.complaints),
            stars=turn.stars,
            policy=turn.drafts[-1].policy if turn.drafts else None,
        )
        rows.append(row)
    return rows


def _rejected(turn: Turn) -> str | None:
    """Return the answer that the one which stands was preferred to, `None` without one."""
    if turn.before is not None:
        return turn.before
    if turn.pair is not None and turn.chosen is not None:
        return turn.pair[1 - turn.chosen].text
    return turn.replaced


def keep_feedback(ledger: Ledger, chat: Chat, turns: list[Turn]) -> int:
    """Have the ledger hold what may be learned from a chat as it stands, nothing without consent; return how much."""
    rows = feedback_of(chat, turns) if chat.learn else []
    known = {row.id: row.at for row in ledger.rows(FeedbackRow, chat=chat.id)}
    for row in rows:
        row.at = known.get(row.id, row.at)
    ledger.replace(FeedbackRow, rows, chat=chat.id)
    return len(rows)
