"""A tool of your own: a typed function with a docstring.

    autotelic run solve --tool examples/plug_in_a_tool.py --input '{"question": "Which weekday was 14 July 1789?"}'

Its annotations become the schema that the model's calls are held to, its docstring is what the model reads.
"""

from __future__ import annotations

import datetime

import autotelic


@autotelic.tool
def weekday(year: int, month: int, day: int) -> str:
    """Tell the weekday of a date."""
    return datetime.date(year, month, day).strftime("%A")
