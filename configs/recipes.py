"""How the tasks of `configs/tools.yaml` are worked with Python: from a question to the call that answers it.

A run works its few real examples by these, for real, and shows them to a model that has never called a tool. A function
is named after its family; `None` says that it knows no way.
"""

from __future__ import annotations

import re
from datetime import datetime

Call = tuple[str, dict[str, str]]


def _python(code: str) -> Call:
    return "python", {"code": code}


def chain_sum(question: str) -> Call:
    """`... arithmetic problem: 72 - 12 =`."""
    return _python(f"print({re.findall(r'problem: (.*) =', question)[0]})")


def products(question: str) -> Call:
    """`... multiplication: 89 * 36. Give ...`."""
    return _python(f"print({re.findall(r'multiplication: ([^.]*)', question)[0]})")


def gcd(question: str) -> Call:
    """`... of these numbers: 28, 12. Give ...`."""
    return _python(f"from math import gcd\nprint(gcd({re.findall(r'numbers: ([^.]*)', question)[0]}))")


def letter_counting(question: str) -> Call:
    """`... letter "m" appear in the text: "..."?`."""
    letter, text = re.findall(r'letter "(.)" appear in the text: "(.*)"', question)[0]
    return _python(f'print("{text}".lower().count("{letter}"))')


def spell_backward(question: str) -> Call:
    """`... (example: sun -> nus): suz`."""
    return _python(f'print("{question.split()[-1]}"[::-1])')


def calendar_arithmetic(question: str) -> Call | None:
    """`Count backward 4 days from Wednesday, August 17, 2022 - what's the weekday?`; no other kind of question."""
    dates, days = re.findall(r"(\w+ \d+, \d{4})", question), re.findall(r"(\d+) days", question)
    if len(dates) != 1 or len(days) != 1 or "weekday" not in question:
        return None
    date = datetime.strptime(dates[0], "%B %d, %Y")
    sign = "-" if re.search(r"back|before|ago|prior|earlier|was it", question) else "+"
    at = f"date({date.year}, {date.month}, {date.day})"
    return _python(f"from datetime import *\nprint(f'{{{at} {sign} timedelta({days[0]}):%A}}')")
