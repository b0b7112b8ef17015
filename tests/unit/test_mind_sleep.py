from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.controls import ControlsConfig
from sovl_daemon.mind.sleep import (
    ABORT_COOLDOWN_S,
    AWAKE_AT_LEAST_S,
    Rhythm,
    SleepReason,
    WakeReason,
    longest_night,
    ready,
    sleep_reason,
    tiredness,
)

HOUR = 3600.0
shares = st.floats(0, 1)
maybe_shares = st.none() | shares
counts = st.integers(0, 1000)
seconds = st.floats(0, 1e6)
any_knobs = st.builds(
    ControlsConfig,
    sleep_conf_threshold=st.floats(0.5, 0.9),
    sleep_log_min=st.integers(5, 20),
    sleep_time_factor=st.floats(0.5, 5),
)


def knobs(**values: Any) -> ControlsConfig:
    return ControlsConfig(**values)


def why_sleep(now: float, rhythm: Rhythm | None = None, **given: Any) -> SleepReason | None:
    state: dict[str, Any] = {"entries": 10, "confidence": 0.8, "stage": 0.0, "knobs": knobs()}
    return sleep_reason(rhythm or Rhythm(0), now, **(state | given))


# Being ready


@pytest.mark.parametrize(
    ("entries", "confidence", "expected"),
    [
        (10, 0.71, True),
        (10, 0.7, False),
        (9, 0.9, False),
        (10, None, True),
        (9, None, False),
        (500, 0.1, False),
    ],
)
def test_ready_by_hand(entries: int, confidence: float | None, expected: bool) -> None:
    assert ready(entries, confidence, knobs()) is expected


@given(entries=counts, more=counts, low=shares, high=shares, knobs=any_knobs)
def test_more_to_learn_and_more_confidence_never_hold_it_back(
    entries: int, more: int, low: float, high: float, knobs: ControlsConfig
) -> None:
    low, high = sorted((low, high))
    assert ready(entries, low, knobs) <= ready(entries + more, high, knobs)


# Tiredness


@pytest.mark.parametrize(
    ("entries", "confidence", "hours", "stage", "expected"),
    [
        (0, 1.0, 0, 0, 0),
        (10, 1.0, 0, 0, 0.4),
        (99, 1.0, 0, 0, 0.4),
        (5, 1.0, 0, 0, 0.2),
        (0, 0.0, 0, 0, 0.3),
        (0, None, 0, 0, 0.15),
        (0, 1.0, 1, 0, 0.15),
        (0, 1.0, 9, 0, 0.3),
        (0, 1.0, -1, 0, 0),
        (10, 0.0, 2, 0, 1),
        (10, 0.0, 2, 0.5, 0.951229),
        (10, 0.0, 2, 1, 0.904837),
        (10, 0.0, 2, 50, 0.904837),
    ],
)
def test_tiredness_by_hand(
    entries: int, confidence: float | None, hours: float, stage: float, expected: float
) -> None:
    found = tiredness(entries, confidence, hours * HOUR, stage, knobs())
    assert found == pytest.approx(expected, abs=1e-6)


@given(
    entries=counts, confidence=maybe_shares, awake=seconds, stage=st.floats(0, 50), knobs=any_knobs
)
def test_tiredness_is_in_range_and_grows_with_the_hours(
    entries: int, confidence: float | None, awake: float, stage: float, knobs: ControlsConfig
) -> None:
    now = tiredness(entries, confidence, awake, stage, knobs)
    later = tiredness(entries, confidence, awake + HOUR, stage, knobs)
    assert 0 <= now <= later <= 1


@given(stage=st.floats(0, 1000))
def test_no_mind_is_too_old_to_tire(stage: float) -> None:
    assert why_sleep(2 * HOUR, confidence=0.2, stage=stage) == "tired"


# Falling asleep


def test_it_falls_asleep_ready_or_tired() -> None:
    assert why_sleep(60) == "ready"
    assert why_sleep(60, confidence=0.5) is None
    assert why_sleep(1.1 * HOUR, confidence=0.5) == "tired"
    assert why_sleep(60, entries=9) is None


def test_it_is_awake_for_a_minute_at_least() -> None:
    assert why_sleep(AWAKE_AT_LEAST_S - 0.1) is None
    assert why_sleep(AWAKE_AT_LEAST_S) == "ready"


def test_after_an_aborted_night_it_stays_awake_for_two_minutes() -> None:
    rhythm = Rhythm(0).fell_asleep(100).woke(200, "called")
    assert why_sleep(200 + ABORT_COOLDOWN_S - 0.1, rhythm) is None
    assert why_sleep(200 + ABORT_COOLDOWN_S, rhythm) == "ready"


@pytest.mark.parametrize(
    ("reason", "after_60_s"),
    [("called", None), ("failed", None), ("rested", "ready")],
)
def test_only_aborts_have_a_cooldown(reason: WakeReason, after_60_s: str | None) -> None:
    rhythm = Rhythm(0).fell_asleep(100).woke(200, reason)
    assert why_sleep(260, rhythm) == after_60_s


def test_the_cooldown_outlasts_a_later_waking() -> None:
    rhythm = Rhythm(0).fell_asleep(100).woke(200, "failed").fell_asleep(205).woke(210, "rested")
    assert why_sleep(290, rhythm) is None
    assert why_sleep(320, rhythm) == "ready"


def test_a_sleeper_does_not_fall_asleep() -> None:
    assert why_sleep(9 * HOUR, Rhythm(0).fell_asleep(100)) is None


def test_it_never_falls_asleep_where_gestation_is_off() -> None:
    assert why_sleep(9 * HOUR, confidence=0.2, knobs=knobs(enable_gestation=False)) is None
    assert why_sleep(9 * HOUR, knobs=knobs(enable_gestation=False)) is None


def test_with_nothing_to_learn_it_stays_awake() -> None:
    assert why_sleep(9 * HOUR, entries=0, confidence=0.0) is None


@given(now=seconds, entries=counts, confidence=maybe_shares, stage=st.floats(0, 5), knobs=any_knobs)
def test_it_sleeps_only_with_a_reason_that_holds(
    now: float, entries: int, confidence: float | None, stage: float, knobs: ControlsConfig
) -> None:
    reason = why_sleep(now, entries=entries, confidence=confidence, stage=stage, knobs=knobs)
    if reason is not None:
        assert now >= 60
        assert entries >= 1
    if reason == "ready":
        assert ready(entries, confidence, knobs)
    if reason == "tired":
        assert tiredness(entries, confidence, now, stage, knobs) > 0.7


# The night


@pytest.mark.parametrize(
    ("entries", "factor", "minutes"),
    [(10, 1.0, 10), (10, 0.5, 5), (20, 5.0, 100), (0, 1.0, 1), (10_000, 5.0, 480)],
)
def test_how_long_a_night_may_last(entries: int, factor: float, minutes: float) -> None:
    assert longest_night(entries, knobs(sleep_time_factor=factor)) == 60 * minutes


def test_the_time_awake_begins_anew() -> None:
    rhythm = Rhythm(0)
    assert rhythm.awake_s(50) == 50
    assert rhythm.fell_asleep(100).awake_s(150) == 0
    assert rhythm.fell_asleep(100).woke(200, "rested").awake_s(230) == 30
