"""The gate on skills: strict at the door, lenient inside, and never by too little."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotelic.evaluation import Comparison, SkillGateConfig, admit_skill, keep_skill, paired_bootstrap

GATE = SkillGateConfig()


def found(won: int, lost: int, same: int) -> Comparison:
    before = [0.0] * won + [1.0] * lost + [0.0] * same
    made = paired_bootstrap(before, [1.0] * won + [0.0] * lost + [0.0] * same, confidence=GATE.confidence)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("won", "lost", "same", "called", "enters", "stays"),
    [
        (20, 2, 78, 90, "gain", "no_harm"),
        (20, 2, 78, 0, "never_called", "no_harm"),
        (6, 4, 90, 90, "no_gain", "no_harm"),
        (0, 0, 100, 90, "no_gain", "no_gain"),
        (4, 4, 92, 90, "no_gain", "no_gain"),
        (4, 7, 89, 90, "no_gain", "no_gain"),
        (2, 20, 78, 90, "no_gain", "harm"),
        (5, 0, 95, 5, "by_chance", "no_harm"),
        (29, 0, 0, 29, "too_few_tasks", "too_few_tasks"),
        (0, 29, 0, 29, "too_few_tasks", "too_few_tasks"),
    ],
)
def test_the_burden_of_proof_changes_sides_at_the_door(
    won: int, lost: int, same: int, called: int, enters: str, stays: str
) -> None:
    comparison = found(won, lost, same)
    admitted, kept = admit_skill(GATE, comparison, called=called), keep_skill(GATE, comparison)
    assert (admitted.reason, admitted.keep) == (enters, enters == "gain")
    assert (kept.reason, kept.keep) == (stays, stays in ("no_harm", "too_few_tasks"))
    assert f"{won + lost + same} tasks" in admitted.words and f"{won + lost + same} tasks" in kept.words


def test_what_was_not_measured_neither_enters_nor_leaves() -> None:
    assert not admit_skill(GATE, None, called=9).keep and keep_skill(GATE, None).keep
    assert admit_skill(GATE, None, called=9).reason == keep_skill(GATE, None).reason == "not_measured"


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_what_enters_would_also_stay(won: int, lost: int, same: int) -> None:
    if won + lost + same:
        comparison = found(won, lost, same)
        assert keep_skill(GATE, comparison).keep or not admit_skill(GATE, comparison, called=1).keep


def test_of_many_useless_skills_tried_together_few_enter() -> None:
    rng = random.Random(7)
    batches, tried = 60, 8
    gate = GATE.among(tried)
    entered = 0
    for batch in range(batches):
        for index in range(tried):
            sides = [[float(rng.random() < 0.4) for _ in range(100)] for _ in range(2)]
            comparison = paired_bootstrap(
                *sides, confidence=gate.confidence, resamples=2000, seed=batch * tried + index
            )
            entered += admit_skill(gate, comparison, called=100).keep
    assert entered <= 0.1 * batches, "one at a time would let in one in five of the batches"
