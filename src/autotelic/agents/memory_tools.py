"""Two tools over an open memory: an agent looks up what was learned, and keeps notes of its own.

A note is what a model said and nothing more: it is a record, marked as a note where it is shown, and never a lesson.
"""

from __future__ import annotations

from autotelic.core.errors import ModelRetry
from autotelic.core.words import content_id
from autotelic.memory import NOTES, Demonstration, Lesson, Memory, Query, Record, record_scope
from autotelic.tools import Tool, tool

__all__ = ["memory_tools"]

_MAX_NOTE = 2000


def memory_tools(memory: Memory, *, scopes: tuple[str, ...] = ("run",)) -> list[Tool]:
    """Return the tools `recall` (reads) and `note` (writes) over a memory that stays open.

    Args:
        memory: the memory.
        scopes: scopes that `recall` sees, and in the first of which `note` writes.
    """
    namespace = (NOTES, *scopes[0].split("/"))
    place = record_scope(namespace)

    @tool(permission="reads", here=True)
    async def recall(query: str, count: int = 3) -> str:
        """Look up what was learned before: solved examples, advice and notes that fit the query."""
        if not 1 <= count <= 10:
            raise ModelRetry(f"count is {count}, expected 1 to 10")
        asked = Query(query, kinds=("demonstration", "lesson", "record"), scopes=(*scopes, place))
        [found] = await memory.retrieve([asked], count, keywords=True, variety=0.2)
        return "\n\n".join(_shown(one) for one in found) or "nothing was found"

    @tool(permission="writes", here=True)
    async def note(text: str) -> str:
        """Keep a note for later. Say everything that is needed to understand it."""
        if not 1 <= len(text.strip()) <= _MAX_NOTE:
            raise ModelRetry(f"the note has {len(text.strip())} characters, expected 1 to {_MAX_NOTE}")
        await memory.keep([Record.of(namespace, content_id(place, text), {"text": text}, text)])
        return "noted"

    return [recall, note]


def _shown(one: object) -> str:
    match one:
        case Demonstration():
            return f"Example: {one.question}\nAnswer: {one.answer}"
        case Lesson():
            return f"Advice: {one.advice}"
        case Record():
            return f"Note: {one.indexed}"
    return ""
