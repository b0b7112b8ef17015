import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.mind import TrainingConfig
from sovl_daemon.mind.lifecycle import (
    capacity,
    exposure_gain,
    life_weight,
    night_learning_rate,
    stage,
)

stages = st.floats(0, 20)
curves = st.sampled_from(["sigmoid_linear", "exponential"])
any_training = st.builds(
    TrainingConfig,
    sigmoid_scale=st.floats(0.001, 100),
    sigmoid_shift=st.floats(0, 1000),
    lifecycle_curve=curves,
    learning_rate=st.floats(1e-9, 1),
)


def training(**values: Any) -> TrainingConfig:
    return TrainingConfig(**values)


def weight(stage: float, **values: Any) -> float:
    return life_weight(stage, training(**values))


def test_capacity_is_a_hundredth_of_the_parameters() -> None:
    assert capacity(460_800, training()) == pytest.approx(4608)
    assert capacity(1000, training(lifecycle_capacity_factor=0.1)) == pytest.approx(100)


def test_a_scaffold_that_cannot_learn_has_no_capacity() -> None:
    with pytest.raises(ValueError, match="0 trainable parameters are not allowed"):
        capacity(0, training())


@pytest.mark.parametrize(("temperament", "gain"), [(-1, 2), (0, 2), (0.5, 2), (0.51, 3), (1, 3)])
def test_an_eager_mind_takes_more_from_a_prompt(temperament: float, gain: int) -> None:
    assert exposure_gain(temperament, training()) == gain


def test_the_stage_is_the_lived_part() -> None:
    assert [stage(exposure, 200) for exposure in (0, 50, 200, 600)] == [0, 0.25, 1, 3]


@pytest.mark.parametrize(("exposure", "of"), [(-1, 10), (1, 0), (1, -2)])
def test_no_stage_of_an_impossible_life(exposure: float, of: float) -> None:
    with pytest.raises(ValueError, match="is not allowed: give 0 or more of more than 0"):
        stage(exposure, of)


@pytest.mark.parametrize(
    ("curve", "stage", "expected"),
    [
        ("exponential", 0, 0),
        ("exponential", 0.5, 1 - math.exp(-1)),
        ("exponential", 1, 1 - math.exp(-2)),
        ("exponential", 9, 1),
        ("sigmoid_linear", 0, 1 / (1 + math.exp(2.5))),
        ("sigmoid_linear", 0.5, 0.5),
        ("sigmoid_linear", 0.7, 1 / (1 + math.exp(-1))),
        ("sigmoid_linear", 1, 1 / (1 + math.exp(-2.5))),
    ],
)
def test_life_weight_by_hand(curve: str, stage: float, expected: float) -> None:
    assert weight(stage, lifecycle_curve=curve) == pytest.approx(expected, abs=1e-6)


@given(early=stages, late=stages, training=any_training)
def test_a_life_never_loses_weight(early: float, late: float, training: TrainingConfig) -> None:
    early, late = sorted((early, late))
    assert 0 <= life_weight(early, training) <= life_weight(late, training) <= 1


@given(curve=curves)
def test_both_curves_rise_well_within_a_life(curve: str) -> None:
    assert weight(1, lifecycle_curve=curve) - weight(0, lifecycle_curve=curve) > 0.8


@given(shift=st.floats(0, 10), scale=st.floats(0.1, 10))
def test_the_shift_is_where_half_the_weight_is(shift: float, scale: float) -> None:
    found = weight(shift / 10, sigmoid_shift=shift, sigmoid_scale=scale)
    assert found == pytest.approx(0.5, abs=1e-9)


def test_a_steeper_curve_is_lower_before_its_middle_and_higher_after() -> None:
    assert weight(0.2, sigmoid_scale=2.0) < weight(0.2)
    assert weight(0.8, sigmoid_scale=2.0) > weight(0.8)


def test_a_night_learns_half_as_fast_and_less_with_age() -> None:
    rates = [night_learning_rate(at, training(learning_rate=2e-4)) for at in (0, 1, 2)]
    assert rates == pytest.approx([1e-4, 1e-4 / math.e, 1e-4 / math.e**2])


@given(early=stages, late=stages, training=any_training)
def test_the_learning_rate_never_rises(early: float, late: float, training: TrainingConfig) -> None:
    early, late = sorted((early, late))
    assert 0 < night_learning_rate(late, training) <= night_learning_rate(early, training)
    assert night_learning_rate(early, training) <= training.learning_rate / 2
