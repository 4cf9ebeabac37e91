"""Levels of `reasoning_gym` families that a small model can climb, from very easy to hard.

The package's own curricula start far above what a model with 135 million parameters can do. Where a table leaves
something out, it is because few answers are possible: a two-way guess teaches a prior, not a skill.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DEFAULT_FAMILIES", "FORMS", "LEVELS", "REGEXES", "UNUSABLE"]

Level = dict[str, Any]

DEFAULT_FAMILIES = (
    "string_insertion",
    "gcd",
    "number_sequence",
    "letter_counting",
    "calendar_arithmetic",
    "spell_backward",
)
"""What a config without `families` uses."""


def _calendar(bound: int, *tasks: str) -> Level:
    return {"tasks": list(tasks), "offset_upper_bound": bound}


def _ranges(low: str, high: str, *pairs: tuple[int, int]) -> list[Level]:
    return [{low: a, high: b} for a, b in pairs]


LEVELS: dict[str, list[Level]] = {
    "string_insertion": _ranges("min_string_length", "max_string_length", (5, 6), (7, 9), (10, 14), (15, 24)),
    "gcd": _ranges("min_value", "max_value", (2, 40), (10, 120), (50, 500), (100, 2000)),
    "number_sequence": [
        {"min_terms": 4, "max_terms": 5, "max_complexity": 1},
        {"min_terms": 5, "max_terms": 7, "max_complexity": 1},
        {"min_terms": 5, "max_terms": 7, "max_complexity": 2},
        {"min_terms": 6, "max_terms": 8, "max_complexity": 3},
    ],
    # Shorter texts make "1" the answer every second time.
    "letter_counting": _ranges("min_words", "max_words", (6, 8), (9, 12), (13, 16), (17, 24)),
    # Left out: is_leap_year (yes or no), and count_days where the range is so short that it is 0 or 1.
    "calendar_arithmetic": [
        _calendar(7, "weekday_offset", "weekday_of_date_from_first_date"),
        _calendar(14, "weekday_offset", "weekday_of_date_from_first_date", "recurring_event_day"),
        _calendar(35, "weekday_offset", "recurring_event_day", "count_business_days"),
        _calendar(100, "weekday_offset", "weekday_of_date", "recurring_event_day", "count_days", "count_business_days"),
    ],
    "spell_backward": _ranges("min_word_len", "max_word_len", (3, 3), (4, 4), (5, 5)),
    "chain_sum": [
        {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
        {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
        {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 3},
        {"min_terms": 4, "max_terms": 6, "min_digits": 2, "max_digits": 4},
    ],
    "products": [
        {"min_digits": 1, "max_digits": 2},
        {"min_digits": 2, "max_digits": 2},
        {"min_digits": 2, "max_digits": 3},
    ],
    "lcm": _ranges("min_value", "max_value", (2, 40), (4, 80), (10, 200)),
    "simple_equations": [
        {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 10},
        {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 40},
        {"min_terms": 2, "max_terms": 4, "min_value": 1, "max_value": 100},
    ],
    "count_bits": _ranges("min_n", "max_n", (16, 1023), (256, 65535), (65536, 2**31 - 1)),
    "base_conversion": [
        {"min_base": 2, "max_base": 10, "min_value": 2, "max_value": 63},
        {"min_base": 2, "max_base": 16, "min_value": 16, "max_value": 255},
        {"min_base": 2, "max_base": 16, "min_value": 100, "max_value": 1000},
    ],
    "time_intervals": [
        {"task_types": ["time"], "max_time_difference_seconds": 3600},
        {"task_types": ["time", "date"], "max_time_difference_seconds": 6 * 3600, "max_date_difference_days": 30},
        {"task_types": ["time", "time_seconds", "date"], "max_date_difference_days": 100},
        {},
    ],
    "countdown": [
        {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 20, "min_target": 2, "max_target": 99},
        {"min_numbers": 3, "max_numbers": 3, "min_value": 1, "max_value": 10, "min_target": 2, "max_target": 99},
        {"min_numbers": 3, "max_numbers": 4, "min_value": 1, "max_value": 50, "min_target": 10, "max_target": 500},
        {},
    ],
    "word_sequence_reversal": _ranges("min_words", "max_words", (2, 3), (3, 5), (5, 9)),
}
"""Family to dataset parameters by level; all other families use the package's curriculum."""

FORMS = {
    "string_insertion": "the resulting string",
    "gcd": "one whole number",
    "number_sequence": "the next number",
    "letter_counting": "one whole number",
    "calendar_arithmetic": "a weekday or a number",
    "spell_backward": "one word",
    "chain_sum": "one whole number",
    "products": "one whole number",
    "lcm": "one whole number",
    "simple_equations": "one whole number",
    "count_bits": "one whole number",
    "base_conversion": "the converted number",
    "time_intervals": "the duration in the form asked for",
    "countdown": "one arithmetic expression",
    "word_sequence_reversal": "the reversed list",
}
"""What the answer of a family looks like, as the solver is told."""

_WHOLE = "-?[0-9]{1,12}"
REGEXES = {
    **dict.fromkeys(("gcd", "letter_counting", "products", "lcm", "count_bits"), "[0-9]{1,12}"),
    **dict.fromkeys(("number_sequence", "chain_sum", "simple_equations"), _WHOLE),
    "string_insertion": "[A-E]{1,60}",
    "calendar_arithmetic": f"(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|{_WHOLE}",
    "spell_backward": "[A-Za-z]{1,30}",
    "base_conversion": "[0-9a-z]{1,60}",
}
"""The same as a regular expression, where one says it."""

_UNREPEATABLE = "its tasks cannot be made again in another process, so a resumed run could not judge their answers"
UNUSABLE = {
    "codeio": "it runs the code of its data set in this process",
    "coin_flip": "its scorer takes any beginning of the right number, so 0 is right nearly always",
    "composite": "it is a mixture: name the families themselves",
    "game_of_life_halting": "its scorer takes every answer",
    "isomorphic_strings": _UNREPEATABLE,
    "knight_swap": _UNREPEATABLE,
    "list_functions": _UNREPEATABLE,
    "polynomial_multiplication": _UNREPEATABLE,
    "puzzle24": "its scorer does not look at which numbers a puzzle gives",
    "ransom_note": _UNREPEATABLE,
    "sokoban": "its scorer follows any number of moves, so many guesses one after the other are right",
    "word_ladder": _UNREPEATABLE,
}
"""Families that are refused, and why. The unrepeatable ones draw from unordered sets or without a seed."""
