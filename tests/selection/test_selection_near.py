"""What is a near copy and what is not, and that the search finds exactly those."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotelic.core.texts import comparable
from autotelic.selection.near import DEFAULT_THRESHOLD, NearIndex, similarity

GCD = "Find the Greatest Common Divisor (GCD) of these numbers: {}. Give only the GCD as your final answer."
SPELL = "Spell this word backward (example: sun -> nus): {}"
COPIES = [
    ((GCD.format("780, 461"), "1"), (GCD.format("461, 780"), "1")),
    ((GCD.format("780, 461"), "1"), (GCD.format("0780 ,  461").upper() + "!", " 1.")),
    (
        ("What day of the week was October 28, 2022? Reply with just the weekday name.", "Friday"),
        ("What day of the week was October 28, 2022? Reply with only the weekday name.", "friday"),
    ),
    (("def f(x):\n    return x + 12\nWhat is f(3)?", "15"), ("def f(x): return x + 12\n\nwhat is f(3.0)", "15.0")),
]
DIFFERENT = [
    (("gcd of 12 and 18", "6"), ("gcd of 12 and 20", "4")),
    (("gcd of 12 and 18", "6"), ("gcd of 24 and 18", "6")),
    ((GCD.format("12, 18"), "6"), (GCD.format("12, 30"), "6")),
    ((SPELL.format("tree"), "eert"), (SPELL.format("free"), "eerf")),
    (("1, 2, 4, 3, ?", "5"), ("4, 3, 1, 2, ?", "5")),
    (("How much is 5 - 3?", "2"), ("How much is -5 - 3?", "-8")),
    (("How much is 1.5 + 2?", "3.5"), ("How much is 15 + 2?", "17")),
    (
        ('How many times does the letter "h" appear in the text: "hundred thousand names and then"?', "3"),
        ('How many times does the letter "h" appear in the text: "he says that they were there"?', "3"),
    ),
]


@pytest.mark.parametrize(("one", "other"), COPIES)
def test_the_same_task_in_other_words_is_a_copy(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert similarity(*one, *other) >= DEFAULT_THRESHOLD


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_number_answer_or_text_is_another_task(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert similarity(*one, *other) < DEFAULT_THRESHOLD


def test_numbers_of_any_length_compare_by_value() -> None:
    assert comparable(" 007.500 ") == "7.5" and comparable("-0040") == "-40" and comparable("Yes.") == "yes"
    assert similarity("1" * 400, "", "0" + "1" * 400, "") > 0 == similarity("1" * 400, "", "1" * 401, "")


words = ["find", "the", "sum", "of", "a", "b", "c", "+", "1", "2", "and", "."]
texts = st.lists(st.sampled_from(words), max_size=9).map(" ".join)
rows = st.lists(st.tuples(texts, st.sampled_from(["1", "2", ""])), max_size=25)


@given(rows, rows, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_the_search_finds_what_comparing_everything_finds(
    known: list[tuple[str, str]], asked: list[tuple[str, str]], threshold: float
) -> None:
    index = NearIndex(threshold)
    held: list[tuple[str, str, str]] = []
    for i, (question, answer) in enumerate(known):
        if i % 3 == 0:  # questions in between, so that the index grows while it is used
            index.find(question, answer)
        index.add(f"{i:02}", question, answer)
        held.append((f"{i:02}", question, answer))
    for question, answer in [*asked, *known]:
        scored = [(similarity(question, answer, q, a), id_) for id_, q, a in held]
        expected = min((pair for pair in scored if pair[0] >= threshold), key=lambda p: (-p[0], p[1]), default=None)
        assert index.find(question, answer) == expected


def test_groups_are_kept_apart_and_answers_count_only_if_asked() -> None:
    index, careless = NearIndex(), NearIndex(use_answer=False)
    index.add("a", "the sum of 1 and 2", "3", "solver")
    careless.add("a", "the sum of 1 and 2", "")
    assert index.find("the sum of 1 and 2", "3", "solver") == (1.0, "a")
    assert index.find("the sum of 1 and 2", "3", "proposer") is None
    assert index.find("the sum of 1 and 2", "4", "solver") is None
    assert careless.find("the sum of 1 and 2", "anything") == (1.0, "a")
