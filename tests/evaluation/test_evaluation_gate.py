from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from autotelic.core.errors import UsageError
from autotelic.evaluation import Comparison, Decision, GateConfig, decide, decide_wanted, paired_bootstrap

CONFIG = GateConfig()


def pairs(wins: int, losses: int, ties: int) -> Comparison:
    found = paired_bootstrap([0.0] * wins + [1.0] * losses + [1.0] * ties, [1.0] * wins + [0.0] * losses + [1.0] * ties)
    assert found is not None
    return found


GAIN, SAME = pairs(40, 5, 155), pairs(5, 5, 90)


def test_a_clear_gain_without_a_fall_is_promoted_and_says_why() -> None:
    decision = decide(CONFIG, fresh=GAIN, frozen=SAME, regression=SAME, safety=SAME)
    assert decision.promote
    assert len(decision.reasons) == 4
    assert "80.0% -> 97.5%" in decision.reasons[0]
    assert "40 wins to 5 losses" in decision.reasons[0]


def blocked(decision: Decision, *words: str) -> None:
    assert not decision.promote
    assert all(word in decision.reasons[0] for word in words), decision.reasons


def test_no_gain_is_refused() -> None:
    blocked(decide(CONFIG, fresh=pairs(20, 18, 162), frozen=SAME), "fresh", "lower bound at 0.95 is not above zero")


def test_four_lucky_wins_are_refused_by_the_sign_test() -> None:
    lucky = pairs(4, 0, 196)
    assert lucky.low > 0
    blocked(decide(CONFIG, fresh=lucky, frozen=SAME), "the sign test does not agree", "4 wins to 0 losses")


def test_too_few_pairs_are_refused() -> None:
    blocked(decide(CONFIG, fresh=pairs(20, 0, 9), frozen=SAME), "29 pairs", "min_tasks (30)")


def test_missing_evidence_is_refused() -> None:
    blocked(decide(CONFIG, fresh=None, frozen=SAME), "fresh", "no evidence")
    blocked(decide(CONFIG, fresh=GAIN, frozen=None), "frozen", "not measured")


@pytest.mark.parametrize("judge", [decide, decide_wanted])
def test_past_failures_without_any_verdict_block_and_none_do_not(judge: Callable[..., Decision]) -> None:
    assert paired_bootstrap([0.0] * 8, [None] * 8) is None
    assert judge(CONFIG, fresh=GAIN, frozen=SAME, regression=None).promote, "there are none yet"
    unknown = judge(CONFIG, fresh=GAIN, frozen=SAME, regression=None, has_regression=True)
    blocked(unknown, "regression", "no task has a verdict")


@pytest.mark.parametrize("suite", ["frozen", "regression", "safety"])
def test_a_fall_beyond_the_margin_blocks_and_comes_first(suite: str) -> None:
    suites: dict[str, Any] = {"frozen": SAME, "regression": SAME, "safety": SAME} | {suite: pairs(2, 9, 89)}
    blocked(decide(CONFIG, fresh=GAIN, **suites), suite, "falls by more than the margin")


def test_a_fall_within_the_margin_passes_and_names_what_cannot_be_excluded() -> None:
    decision = decide(CONFIG, fresh=GAIN, frozen=pairs(3, 5, 92))
    assert decision.promote
    assert "cannot be excluded" in decision.reasons[1]


@pytest.mark.parametrize("margin", [3, 5])
def test_a_fall_of_exactly_the_margin_passes_whatever_the_score(margin: int) -> None:
    config = GateConfig(frozen_margin=margin / 100)
    for score in range(margin + 1, 101):
        held = pairs_from(score, score - margin)
        assert decide(config, fresh=GAIN, frozen=held).promote, held
        blocked(decide(config, fresh=GAIN, frozen=pairs_from(score, score - margin - 1)), "falls by more than")


def pairs_from(before: int, after: int) -> Comparison:
    """A hundred pairs with so many right answers before and after."""
    sides = [[1.0] * right + [0.0] * (100 - right) for right in (before, after)]
    found = paired_bootstrap(*sides, resamples=1)
    assert found is not None
    return found


def test_one_unlucky_task_of_a_tiny_suite_does_not_block_but_a_shown_fall_does() -> None:
    assert decide(CONFIG, fresh=GAIN, frozen=SAME, regression=pairs(0, 1, 7)).promote
    blocked(decide(CONFIG, fresh=GAIN, frozen=SAME, regression=pairs(0, 5, 3)), "regression", "5 lost to 0 won")


def test_a_broken_checker_cannot_promote() -> None:
    found = paired_bootstrap([0.0] * 50 + [None] * 50, [1.0] * 100)
    assert found is not None
    blocked(decide(CONFIG, fresh=found, frozen=SAME), "50 of 100 pairs have no verdict")


def test_candidates_that_learned_nothing_are_hardly_ever_promoted() -> None:
    rng = random.Random(0)
    promoted = 0
    for _ in range(200):
        sides = [[float(rng.random() < 0.2) for _ in range(150)] for _ in range(4)]
        fresh, frozen = (paired_bootstrap(a, b, resamples=500) for a, b in (sides[:2], sides[2:]))
        promoted += decide(CONFIG, fresh=fresh, frozen=frozen).promote
    assert promoted <= 6


def test_each_proof_on_the_same_tasks_has_to_show_more() -> None:
    asked = [CONFIG.asked_again(times).confidence for times in range(4)]
    assert asked == pytest.approx([0.95, 0.975, 0.9875, 0.99375])
    luck = pairs(15, 4, 81)
    assert decide(CONFIG, fresh=luck, frozen=SAME).promote
    blocked(decide(CONFIG.asked_again(3), fresh=luck, frozen=SAME), "sign test")


def test_impossible_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        GateConfig(confidence=1.5)
    with pytest.raises(UsageError):
        paired_bootstrap([1.0], [1.0], confidence=0.0)
