"""A tool of your own: a typed function with a docstring.

    autotelic run solve --tool examples/plug_in_a_tool.py --input '{"question": "Which weekday was 14 July 1789?"}'
    autotelic self-play examples/weekday.yaml

Its annotations become the schema that the model's calls are held to, its docstring is what the model reads.
"""

from __future__ import annotations

import datetime
import re

import autotelic


@autotelic.tool
def weekday(year: int, month: int, day: int) -> str:
    """Tell the weekday of a date."""
    return datetime.date(year, month, day).strftime("%A")


def calendar_arithmetic(question: str) -> tuple[str, dict[str, int]] | None:
    """Show how a question is worked with the tool, or None: a recipe, for `memory.recipes` (examples/weekday.yaml).

    Small models do not find out by themselves. It is named after the family of tasks; a few real examples are worked
    by it, for real, and shown to the model.
    """
    for text, form in ((r"\w+ \d+, \d{4}", "%B %d, %Y"), (r"\d+/\d+/\d{4}", "%m/%d/%Y")):
        if found := re.search(text, question):
            date = datetime.datetime.strptime(found[0], form)
            return "weekday", {"year": date.year, "month": date.month, "day": date.day}
    return None
