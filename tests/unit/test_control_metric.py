"""No reading that is wrong gets past the check."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.control.metric import Clock, Inspector, Metric
from sovl_daemon.control.metric_sampler import sampling_interval_s
from sovl_daemon.control.stability import StabilityScore, stability
from sovl_daemon.control.trend import Trend
from tests.control import reading

METRIC = Metric(name="memory.percent", unit="%", high=100, fresh_s=3, frozen_s=10)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "missing"),
        (math.nan, "not a number"),
        (math.inf, "not a number"),
        (-math.inf, "not a number"),
        (-0.1, "out of range"),
        (100.1, "out of range"),
        (0.0, ""),
        (100.0, ""),
    ],
)
def test_values_are_checked(value: float | None, fault: str) -> None:
    found = Inspector(METRIC).check(value, 5.0, 5.0)
    assert found.fault == fault
    assert math.isnan(found.value) is bool(fault)


def test_an_old_reading_is_stale() -> None:
    inspector = Inspector(METRIC)
    assert inspector.check(50, 10, 13).fault == ""
    assert inspector.check(50, 10, 13.1).fault == "stale"


def test_a_value_that_never_changes_is_frozen_until_it_does() -> None:
    inspector = Inspector(METRIC)
    faults = [inspector.check(50, t, t).fault for t in range(12)]
    assert faults == [""] * 10 + ["frozen"] * 2
    assert inspector.check(50.1, 12, 12).fault == ""


def test_what_may_stand_still_is_never_frozen() -> None:
    inspector = Inspector(Metric(name="queue.depth", high=100))
    assert {inspector.check(0, t, t).fault for t in range(0, 100_000, 2)} == {""}


@pytest.mark.parametrize("taken_s", [5.0, 20.0])
def test_time_that_runs_backwards_or_ahead_is_a_clock_jump(taken_s: float) -> None:
    inspector = Inspector(METRIC)
    inspector.check(50, 10, 10)
    assert inspector.check(50, taken_s, 11).fault == "clock jump"
    assert inspector.check(51, 12, 12).fault == ""


def test_a_trend_does_not_reach_over_a_clock_jump() -> None:
    inspector = Inspector(METRIC)
    for t in range(20):
        inspector.check(10 + t, t, t)
    inspector.check(50, 5, 20)
    assert inspector.check(90, 21, 21).per_min == 0


def test_the_wall_clock_is_watched() -> None:
    clock = Clock()
    assert clock.jump_s(0, 1000) == 0
    assert clock.jump_s(10, 1010.5) == 0
    assert clock.jump_s(20, 920.5) == -100
    assert clock.jump_s(30, 930.5) == 0


@pytest.mark.parametrize("bad", [(1, 1), (2, 1), (0, math.inf), (math.nan, 1)])
def test_a_scale_that_makes_no_sense_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"for Metric\n(low|high)\n"):
        Metric(name="x", low=bad[0], high=bad[1])


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=30))
def test_a_sound_reading_is_always_a_number_in_range(values: list[float | None]) -> None:
    inspector = Inspector(METRIC)
    for t, value in enumerate(values):
        found = inspector.check(value, float(t), float(t))
        assert found.fault or (0 <= found.value <= 100 and math.isfinite(found.per_min))


# Trend


@given(slope=st.floats(-5, 5), step=st.floats(0.1, 2))
def test_the_slope_of_a_ramp_is_found(slope: float, step: float) -> None:
    trend, t = Trend(), 0.0
    while t < 120:
        found = trend.add(t, slope * t)
        t += step
    assert found == pytest.approx(slope, abs=0.001 + 0.03 * abs(slope))


def test_a_trend_begins_anew_after_a_gap() -> None:
    trend = Trend(gap_s=10)
    for t in range(30):
        trend.add(t, t)
    assert trend.add(41, 500) == 0


# Stability


def test_a_calm_machine_is_stable() -> None:
    score = StabilityScore([METRIC])
    for t in range(60):
        score.add(t, [reading(50)])
    assert score.value(60) == 1


@given(st.floats(0, 1), st.floats(0, 10), st.integers(0, 100))
def test_each_part_can_only_lower_the_score(sound: float, deviation: float, acts: int) -> None:
    found = stability(sound, deviation, acts)
    assert 0 <= found <= sound
    assert stability(sound, deviation + 0.1, acts) <= found
    assert stability(sound, deviation, acts + 1) <= found


def test_the_formula() -> None:
    assert stability(0.5, 0.05, 6) == pytest.approx(0.5 * 0.5 * 0.5)


def test_faults_and_interventions_lower_the_score_for_a_while() -> None:
    score = StabilityScore([METRIC])
    assert score.value(0) == 0
    score.add(0, [reading(50), reading(50, fault="stale"), reading(1, name="not.ours")])
    assert score.value(0) == 0.5
    score.acted(0)
    assert score.value(1) == pytest.approx(0.5 / (1 + 1 / 6))
    score.add(4000, [reading(50)])
    assert score.value(4000) == 1


@pytest.mark.parametrize("bad", [(-0.1, 0, 0), (1.1, 0, 0), (1, -1, 0), (1, 0, -1)])
def test_a_score_of_nonsense_is_refused(bad: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        stability(*bad)


# Sampling


@given(st.floats(-1, 1), st.floats(0, 100), st.booleans())
def test_the_interval_stays_within_its_bounds(
    headroom: float, stalled: float, verifying: bool
) -> None:
    found = sampling_interval_s(headroom, stalled, verifying=verifying)
    assert 0.1 <= found <= 1
    assert sampling_interval_s(headroom - 0.05, stalled, verifying=verifying) <= found


def test_it_looks_often_when_it_matters() -> None:
    assert sampling_interval_s(0.5) == 1
    assert sampling_interval_s(0.05) == 0.5
    assert sampling_interval_s(0.0) == 0.1
    assert sampling_interval_s(0.5, 10.0) == 0.1
    assert sampling_interval_s(0.5, verifying=True) == 0.1
