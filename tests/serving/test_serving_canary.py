from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotelic.core.errors import DeliveryError, ServingError
from autotelic.core.words import Canary, PolicyFiles
from autotelic.serving import Indistinguishable, Tolerance, difference, prove

NOISE = Tolerance(max=1.0, mean=0.1)
Numbers = st.lists(st.floats(-20, 0), min_size=1, max_size=30)


def policy(row: tuple[float, ...]) -> PolicyFiles:
    canary = Canary(token_ids=(tuple(range(len(row) + 1)),), logprobs=(row,))
    return PolicyFiles(number=1, path="x", sha256="0", canary=canary)


def test_difference_by_hand() -> None:
    largest, mean = difference(((-1.0, -2.0), (-3.0,)), ((-1.5, -2.0), (-2.0,)))
    assert (largest, mean) == (1.0, 0.5)


@given(Numbers, st.data())
def test_difference_is_a_distance(row: list[float], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.floats(-20, 0), min_size=len(row), max_size=len(row)))
    left, right = (tuple(row),), (tuple(other),)
    assert difference(left, left) == (0.0, 0.0)
    assert difference(left, right) == difference(right, left)
    largest, mean = difference(left, right)
    assert 0 <= mean <= largest + 1e-12


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_never_agree(bad: float) -> None:
    assert difference(((bad,),), ((-1.0,),)) == (math.inf, math.inf)
    with pytest.raises(DeliveryError):
        prove(policy((-1.0,)), ((bad,),), None, NOISE)


@pytest.mark.parametrize("other", [((-1.0,),), ((-1.0, -1.0), (-1.0,)), ()])
def test_other_shapes_cannot_be_compared(other: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ServingError, match="shapes"):
        difference(((-1.0, -1.0),), other)
    with pytest.raises(ServingError, match="shapes"):
        difference(other, ((-1.0, -1.0),))


def test_nothing_proves_nothing() -> None:
    with pytest.raises(ServingError, match="shapes"):
        difference(((),), ((),))


def test_a_proof_has_all_four_numbers() -> None:
    proof = prove(policy((-1.0, -2.0)), ((-1.1, -2.0),), ((-2.0, -2.0),), NOISE)
    assert proof.to_trainer == pytest.approx(0.1) and proof.to_trainer_mean == pytest.approx(0.05)
    assert proof.to_previous == pytest.approx(0.9) and proof.to_previous_mean == pytest.approx(0.45)


@pytest.mark.parametrize("served", [(-2.5, *[-1.0] * 99), tuple([-1.2] * 100)])
def test_one_wild_token_or_many_slightly_off_are_no_agreement(served: tuple[float, ...]) -> None:
    with pytest.raises(DeliveryError, match="differs from the trainer"):
        prove(policy(tuple([-1.0] * 100)), (served,), None, NOISE)


def test_only_the_quarter_the_maker_held_least_likely_is_left_out() -> None:
    probable, improbable = [-1.0] * 75, [-12.8] * 25
    made = policy((*improbable, *probable))
    assert prove(made, ((*[-15.0] * 25, *probable),), None, NOISE).to_trainer == 0.0
    with pytest.raises(DeliveryError, match="differs from the trainer"):
        prove(made, ((*improbable, -2.5, *probable[1:]),), None, NOISE)
    with pytest.raises(DeliveryError, match="differs from the trainer"):
        prove(policy((*improbable, -12.0, *probable[1:])), ((*improbable, -14.0, *probable[1:]),), None, NOISE)
    with pytest.raises(DeliveryError, match="differs from the trainer"):
        prove(policy((-1.0, math.nan)), ((-1.0, -1.0),), None, NOISE)


@given(Numbers)
def test_a_stale_load_is_never_proved(row: list[float]) -> None:
    held = (tuple(value - 0.05 for value in row),)
    with pytest.raises(Indistinguishable, match=r"changed by 0\.000000"):
        prove(policy(tuple(row)), held, held, NOISE)


def test_a_load_that_moved_away_from_the_trainer_is_not_proved() -> None:
    with pytest.raises(Indistinguishable, match="should have fallen"):
        prove(policy((-1.0, -1.0)), ((-1.09, -1.09),), ((-1.01, -1.01),), NOISE)
