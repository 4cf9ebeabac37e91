"""When two texts are the same: white space, case, Unicode forms, marks and idle zeros aside."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["NUMBER", "comparable", "normalised", "plain_number"]

NUMBER = re.compile(r"(?<![\w.)])-?\d+(?:\.\d+)?|\d+(?:\.\d+)?")
"""A number in a text, with its sign where that is not a minus between two things."""


def normalised(text: str) -> str:
    """Return the text with Unicode forms, case and white space made equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def comparable(answer: str) -> str:
    """Return an answer as it is compared: `normalised`, no marks around it, numbers without idle zeros."""
    text = normalised(answer).strip(" .!\"'`")
    return plain_number(text) if NUMBER.fullmatch(text) else text


def plain_number(text: str) -> str:
    """Return a number's digits without idle zeros."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, part = digits.partition(".")
    part = part.rstrip("0")
    return f"{sign}{whole.lstrip('0') or '0'}{'.' if part else ''}{part}"
