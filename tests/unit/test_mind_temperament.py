import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.controls import ControlsConfig
from sovl_daemon.mind.history import History
from sovl_daemon.mind.temperament import (
    Temperament,
    mood,
    sampling_temperature,
    target,
    updated,
)

scores = st.floats(-1, 1)
shares = st.floats(0, 1)
any_knobs = st.builds(
    ControlsConfig,
    temp_eager_threshold=st.floats(0.7, 0.9),
    temp_sluggish_threshold=st.floats(0.4, 0.6),
    temp_mood_influence=shares,
    temp_curiosity_boost=st.floats(0, 0.5),
    temp_restless_drop=st.floats(0, 0.5),
    temp_melancholy_noise=st.floats(0, 0.05),
    conf_feedback_strength=shares,
    temp_smoothing_factor=shares,
    base_temperature=st.floats(0.5, 1.5),
)
MOODS = ["melancholic", "restless", "calm", "curious"]
UNSTEADY = History((-1, 1, -1, 1))


def knobs(**values: Any) -> ControlsConfig:
    return ControlsConfig(**values)


def temperature(score: float, seed: int = 0, **values: Any) -> float:
    return sampling_temperature(score, knobs(**values), random.Random(seed))


# The target


@pytest.mark.parametrize(
    ("confidence", "stage", "history", "expected"),
    [
        (0.5, 0.0, (), 0.5),
        (0.5, 0.125, (), 0.25),
        (0.5, 0.25, (), 0),
        (0.5, 0.5, (), 0),
        (0.5, 0.5, (-1, 1), -0.2),
        (0.5, 0.75, (-1, 1), 0),
        (0.5, 0.875, (), -0.25),
        (0.5, 1.0, (), -0.5),
        (0.7, 0.5, (), 0.5),
        (0.3, 0.5, (), -0.5),
        (1.0, 0.0, (), 1),
        (0.0, 1.0, (), -1),
        (None, 0.5, (), 0),
    ],
)
def test_target_by_hand(
    confidence: float | None, stage: float, history: tuple[float, ...], expected: float
) -> None:
    found = target(confidence, stage, History(history), knobs())
    assert found == pytest.approx(expected)


@given(confidence=shares, stage=st.floats(0, 5), knobs=any_knobs)
def test_target_is_in_range(confidence: float, stage: float, knobs: ControlsConfig) -> None:
    assert -1 <= target(confidence, stage, UNSTEADY, knobs) <= 1


@given(low=shares, high=shares, stage=shares, knobs=any_knobs)
def test_confidence_lifts_the_target(
    low: float, high: float, stage: float, knobs: ControlsConfig
) -> None:
    low, high = sorted((low, high))
    assert target(low, stage, UNSTEADY, knobs) <= target(high, stage, UNSTEADY, knobs)


@given(early=shares, late=shares, knobs=any_knobs)
def test_age_lowers_the_target(early: float, late: float, knobs: ControlsConfig) -> None:
    early, late = sorted((early, late))
    steady = History()
    assert target(0.5, late, steady, knobs) <= target(0.5, early, steady, knobs)


@given(beyond=st.floats(1, 1e6))
def test_a_life_beyond_its_capacity_grows_no_older(beyond: float) -> None:
    assert target(0.6, beyond, History(), knobs()) == target(0.6, 1, History(), knobs())


@pytest.mark.parametrize(
    ("knob", "value", "confidence", "stage"),
    [
        ("temp_curiosity_boost", 0.1, 0.5, 0.0),
        ("temp_curiosity_boost", 0.1, 0.5, 1.0),
        ("conf_feedback_strength", 0.0, 0.6, 0.5),
    ],
)
def test_each_knob_moves_the_target(
    knob: str, value: float, confidence: float, stage: float
) -> None:
    turned = target(confidence, stage, History(), knobs(**{knob: value}))
    assert turned != target(confidence, stage, History(), knobs())


# Its pursuit


def test_an_update_goes_a_tenth_of_the_way() -> None:
    first = updated(Temperament(), 0.5, 0.0, knobs())
    assert first.score == pytest.approx(0.05)
    assert first.history.values == (first.score,)
    second = updated(first, 0.5, 0.0, knobs())
    assert second.score == pytest.approx(0.05 + 0.1 * 0.45)
    assert second.history.values == (first.score, second.score)


@pytest.mark.parametrize(("smoothing", "score"), [(0.0, 0.05), (0.5, 0.025), (1.0, 0.0)])
def test_smoothing_slows_it_down(smoothing: float, score: float) -> None:
    after = updated(Temperament(), 0.5, 0.0, knobs(temp_smoothing_factor=smoothing))
    assert after.score == pytest.approx(score)


@given(score=scores, confidence=shares, stage=shares, knobs=any_knobs)
def test_an_update_never_passes_the_target(
    score: float, confidence: float, stage: float, knobs: ControlsConfig
) -> None:
    before = Temperament(score, UNSTEADY)
    after = updated(before, confidence, stage, knobs)
    goal = target(confidence, stage, UNSTEADY, knobs)
    assert abs(goal - after.score) <= abs(goal - score) + 1e-12
    assert min(score, goal) - 1e-12 <= after.score <= max(score, goal) + 1e-12


def test_it_arrives_in_the_end() -> None:
    temperament = Temperament()
    for _ in range(300):
        temperament = updated(temperament, 0.7, 0.5, knobs())
    assert temperament.score == pytest.approx(0.5, abs=1e-6)


def test_the_history_has_the_length_that_is_set() -> None:
    temperament = Temperament()
    for _ in range(9):
        temperament = updated(temperament, 0.9, 0.0, knobs(temperament_history_maxlen=3))
    assert len(temperament.history) == 3


def test_a_history_that_grows_shorter_forgets_before_it_is_looked_at() -> None:
    temperament = Temperament(0.0, History((-1, 1, 0, 0)))
    short = updated(temperament, 0.5, 0.5, knobs(temperament_history_maxlen=2))
    assert short.score == 0
    assert updated(temperament, 0.5, 0.5, knobs()).score < 0


@pytest.mark.parametrize("score", [1.1, -1.1, math.nan])
def test_a_score_out_of_range_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"temperament .* is not allowed: give -1 to 1"):
        Temperament(score)


# The mood


@pytest.mark.parametrize(
    ("score", "name"),
    [
        (-1, "melancholic"),
        (-0.5, "melancholic"),
        (-0.49, "restless"),
        (0.19, "restless"),
        (0.21, "calm"),
        (0.59, "calm"),
        (0.61, "curious"),
        (1, "curious"),
    ],
)
def test_moods_by_default(score: float, name: str) -> None:
    assert mood(score, knobs()) == name


@pytest.mark.parametrize(
    ("score", "name"), [(0, "restless"), (0.01, "calm"), (0.5, "calm"), (0.51, "curious")]
)
def test_the_middle_of_the_thresholds_ranges_gives_the_old_edges(score: float, name: str) -> None:
    middle = knobs(temp_eager_threshold=0.75, temp_sluggish_threshold=0.5)
    assert mood(score, middle) == name


@given(low=scores, high=scores, knobs=any_knobs)
def test_moods_have_an_order(low: float, high: float, knobs: ControlsConfig) -> None:
    low, high = sorted((low, high))
    assert MOODS.index(mood(low, knobs)) <= MOODS.index(mood(high, knobs))


@pytest.mark.parametrize(
    ("knob", "value", "score", "name"),
    [
        ("temp_eager_threshold", 0.7, 0.5, "curious"),
        ("temp_eager_threshold", 0.9, 0.7, "calm"),
        ("temp_sluggish_threshold", 0.4, -0.1, "calm"),
        ("temp_sluggish_threshold", 0.5, 0.1, "calm"),
    ],
)
def test_the_thresholds_move_the_edges(knob: str, value: float, score: float, name: str) -> None:
    assert mood(score, knobs()) != name
    assert mood(score, knobs(**{knob: value})) == name


# The sampling temperature


def test_a_calm_mind_without_influence_keeps_the_base() -> None:
    assert temperature(0.4) == 0.7


@pytest.mark.parametrize(("score", "expected"), [(1, 1.0), (0.5, 0.85), (0, 0.6), (-0.4, 0.5)])
def test_the_mood_moves_it(score: float, expected: float) -> None:
    assert temperature(score, temp_mood_influence=1.0) == pytest.approx(expected)


def test_only_a_restless_mind_is_cooled() -> None:
    found = [temperature(score, temp_restless_drop=0.15) for score in (0.9, 0.4, 0.1, -0.4)]
    assert found == pytest.approx([0.7, 0.7, 0.55, 0.55])


def test_only_a_melancholic_mind_wavers_and_by_its_noise() -> None:
    drawn = [temperature(-0.8, seed, temp_melancholy_noise=0.05) for seed in range(500)]
    mean = math.fsum(drawn) / 500
    deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in drawn) / 500)
    assert mean == pytest.approx(0.7, abs=0.01)
    assert deviation == pytest.approx(0.05, rel=0.2)
    assert len({temperature(-0.2, seed) for seed in range(5)}) == 1
    assert temperature(-0.8, temp_melancholy_noise=0.0) == 0.7


def test_the_same_noise_gives_the_same_temperature() -> None:
    assert temperature(-0.8, 7) == temperature(-0.8, 7) != temperature(-0.8, 8)


@given(score=scores, knobs=any_knobs, seed=st.integers(0, 99))
def test_it_stays_in_its_range(score: float, knobs: ControlsConfig, seed: int) -> None:
    assert 0.5 <= sampling_temperature(score, knobs, random.Random(seed)) <= 1.5
