from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotelic.core.errors import UsageError
from autotelic.evaluation import auc, balanced_accuracy, estimate, paired_bootstrap, sign_test, wilson

SCORES = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40)
PAIRS = st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 1)), st.one_of(st.none(), st.floats(0, 1))), max_size=40)


def test_paired_bootstrap_golden_values() -> None:
    before = [0.0] * 70 + [1.0] * 30
    after = [1.0] * 25 + [0.0] * 45 + [1.0] * 25 + [0.0] * 5
    found = paired_bootstrap(before, after)
    assert found is not None
    assert found.six() == {
        "n": 100,
        "before": pytest.approx(0.30),
        "after": pytest.approx(0.50),
        "gain": pytest.approx(0.20),
        "low": pytest.approx(0.10, abs=0.015),
        "high": pytest.approx(0.30, abs=0.015),
    }
    assert (found.wins, found.losses) == (25, 5)
    assert found.sign_p == pytest.approx(0.000162, abs=1e-6)


def test_resampling_counts_is_the_bootstrap_over_tasks() -> None:
    rng = np.random.default_rng(7)
    before, after = rng.random(50), rng.random(50)
    found = paired_bootstrap(list(before), list(after), resamples=20_000)
    picks = np.random.default_rng(1).integers(0, 50, size=(20_000, 50))
    low, high = np.quantile((after - before)[picks].mean(axis=1), [0.025, 0.975])
    assert found is not None
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.005)


def test_four_lucky_wins_fool_the_bootstrap_but_not_the_sign_test() -> None:
    found = paired_bootstrap([0.0] * 200, [1.0] * 4 + [0.0] * 196)
    assert found is not None
    assert found.low > 0
    assert found.sign_p == 1 / 16


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        before, after = rng.random(80) < 0.3, rng.random(80) < 0.5
        found = paired_bootstrap(list(before.astype(float)), list(after.astype(float)), resamples=1000, seed=seed)
        assert found is not None
        hits += found.low <= 0.2 <= found.high
    assert 180 <= hits <= 199


@given(PAIRS, st.integers(0, 3))
@settings(max_examples=60)
def test_paired_bootstrap_properties(pairs: list[tuple[float | None, float | None]], seed: int) -> None:
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    found = paired_bootstrap(before, after, resamples=200, seed=seed)
    known = [(b, a) for b, a in pairs if b is not None and a is not None]
    if not known:
        assert found is None
        return
    assert found is not None
    assert found == paired_bootstrap(before[::-1], after[::-1], resamples=200, seed=seed)
    assert found.n + found.dropped == len(pairs)
    assert found.n == len(known)
    assert found.low <= found.high
    assert found.gain == pytest.approx(found.after - found.before)
    differences = [a - b for b, a in known]
    assert min(differences) - 1e-9 <= found.low <= found.high <= max(differences) + 1e-9
    assert found.wins + found.losses <= found.n


def test_pairs_without_a_verdict_are_dropped_from_both_sides_and_counted() -> None:
    found = paired_bootstrap([1.0, None, 0.0, 1.0], [1.0, 1.0, 1.0, None])
    assert found is not None
    assert (found.n, found.dropped, found.before, found.after) == (2, 2, 0.5, 1.0)
    assert paired_bootstrap([None], [1.0]) is None
    assert paired_bootstrap([], []) is None


def test_bad_arguments_are_refused_with_the_mend() -> None:
    with pytest.raises(UsageError, match="2 scores before and 1 after"):
        paired_bootstrap([1.0, 0.0], [1.0])
    with pytest.raises(UsageError, match="confidence is 1"):
        estimate([1.0], confidence=1.0)
    with pytest.raises(UsageError, match="resamples is 0"):
        paired_bootstrap([1.0], [1.0], resamples=0)
    with pytest.raises(UsageError, match="one label for every score"):
        auc([0.5], [True, False])


@given(st.integers(0, 60), st.integers(0, 60))
def test_sign_test_properties(wins: int, losses: int) -> None:
    p = sign_test(wins, losses)
    assert 0 < p <= 1
    assert sign_test(wins + 1, losses) <= p
    ties = math.comb(wins + losses, wins) / 2 ** (wins + losses)
    assert p + sign_test(losses, wins) == pytest.approx(1 + ties)


def test_sign_test_golden_values() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 0) == 1 / 32
    assert sign_test(9, 1) == 11 / 1024
    assert sign_test(0, 5) == 1.0


def test_wilson_golden_values_and_edges() -> None:
    assert list(wilson(15, 50)) == pytest.approx([0.1910, 0.4375], abs=1e-4)
    assert wilson(0, 180)[0] == 0.0
    assert wilson(0, 180)[1] == pytest.approx(0.0209, abs=1e-4)
    assert wilson(10, 10)[1] == 1.0


@given(SCORES)
@settings(max_examples=60)
def test_estimate_properties(scores: list[float | None]) -> None:
    found = estimate(scores, resamples=200)
    known = [s for s in scores if s is not None]
    if not known:
        assert found is None
        return
    assert found is not None
    assert found.n + found.dropped == len(scores)
    assert found.mean == pytest.approx(sum(known) / len(known))
    assert -1e-9 <= found.low <= found.high <= 1 + 1e-9


def test_a_rate_of_zero_has_an_interval_with_width() -> None:
    found = estimate([0.0] * 30)
    assert found is not None
    assert (found.low, found.mean) == (0.0, 0.0)
    assert found.high > 0.1


def test_auc_golden_values() -> None:
    found = auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    assert found is not None
    assert found.mean == 0.75
    tied = auc([0.5] * 20, [True, False] * 10)
    assert tied is not None
    assert tied.mean == 0.5
    assert tied.low < 0.5 < tied.high
    perfect = auc([0.0] * 20 + [1.0] * 20, [False] * 20 + [True] * 20)
    assert perfect is not None
    assert [perfect.mean, perfect.high] == pytest.approx([1.0, 1.0])
    assert 0.8 < perfect.low < 1.0


@given(st.lists(st.tuples(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.booleans()), max_size=40))
def test_auc_is_the_share_of_pairs_ranked_right(items: list[tuple[float | None, bool]]) -> None:
    scores, labels = [s for s, _ in items], [t for _, t in items]
    found = auc(scores, labels)
    right = [s for s, t in items if s is not None and t]
    wrong = [s for s, t in items if s is not None and not t]
    if not right or not wrong:
        assert found is None
        return
    assert found is not None
    share = sum((r > w) + (r == w) / 2 for r in right for w in wrong) / (len(right) * len(wrong))
    assert found.mean == pytest.approx(share)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    turned = auc([None if s is None else -s for s in scores], labels)
    assert turned is not None
    assert turned.mean == pytest.approx(1 - found.mean)
    assert turned.high == pytest.approx(1 - found.low)


def test_balanced_accuracy_of_a_constant_verdict_is_chance() -> None:
    labels = [True] * 5 + [False] * 45
    constant = balanced_accuracy([False] * 50, labels)
    assert constant is not None
    assert constant.mean == 0.5
    perfect = balanced_accuracy(list(labels), labels)
    assert perfect is not None
    assert perfect.mean == perfect.high == 1.0
    assert perfect.low < 0.9
    assert balanced_accuracy([True, None], [True, False]) is None
