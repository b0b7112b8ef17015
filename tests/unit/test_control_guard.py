"""The guard acts on what is certain, asks about what is not, and never flaps."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.control.guard import Guard, Limit, Pace
from sovl_daemon.control.ruling import Ruling
from tests.control import LIMIT, MEMORY, PACE, reading, readings


def rule(guard: Guard, value: float, now_s: float, *, degraded: bool = False) -> Ruling:
    return guard.rule(now_s, readings(value), {} if degraded else None)


def hold_at(guard: Guard, value: float, start_s: float, seconds: float) -> list[Ruling]:
    steps = int(seconds * 2) + 1
    return [rule(guard, value, start_s + step / 2, degraded=True) for step in range(steps)]


STILL = {LIMIT.metric: 5.0}


@pytest.mark.parametrize(("value", "then"), [(50, "relax"), (85, "grey")])
def test_nothing_is_relaxed_or_asked_on_a_value_that_stands_still(value: float, then: str) -> None:
    guard = Guard([LIMIT], PACE, STILL)
    found = hold_at(guard, value, 0, 60)
    assert {each.cause for each in found if each.kind == "hold"} >= {"still"}
    assert {each.cause for each in found[2 * 12 :]} == {"still"}
    assert rule(guard, value + 1e-6, 60.5, degraded=True).kind == then


def test_no_second_move_rests_on_what_has_not_moved_since_the_first() -> None:
    guard = Guard([LIMIT], PACE, STILL)
    assert hold_at(guard, 95, 0, 0.5)[-1].kind == "act"
    guard.moved(0.5, "act", forced=True)
    found = hold_at(guard, 95, 1, 59)[-1]
    assert (found.kind, found.cause) == ("hold", "still")
    assert found.words() == (
        "memory.percent has been at 95 to the last digit for 60 s: its sensor may be stuck"
    )
    assert rule(guard, 95.5, 60.5).kind == "act"


def test_what_stands_still_from_the_start_is_acted_on_once() -> None:
    guard = Guard([LIMIT], PACE, STILL)
    assert [found.kind for found in hold_at(guard, 95, 0, 30)][1:] == ["act"] * 60


def test_wild_readings_at_the_end_of_the_duration_are_not_acted_on() -> None:
    guard = Guard([LIMIT], PACE)
    for now_s, value in ((0, 92.1), (0.1, 92.3), (0.2, 92.2)):
        rule(guard, value, now_s)
    found = [rule(guard, 100, 0.5), rule(guard, 100, 0.6)]
    assert {(each.kind, each.cause) for each in found} == {("hold", "leap")}
    assert "which the next readings have to confirm" in found[0].words()
    assert rule(guard, 91, 0.7).kind == "hold"


def test_what_stays_where_it_leapt_to_is_acted_on() -> None:
    guard = Guard([LIMIT], PACE)
    steps = ((0, 92), (0.1, 92), (0.2, 92), (0.5, 98), (0.6, 98), (0.7, 98))
    assert [rule(guard, value, now_s).kind for now_s, value in steps] == ["hold"] * 5 + ["act"]


def test_what_goes_on_rising_in_leaps_is_acted_on() -> None:
    guard = Guard([LIMIT], PACE)
    kinds = [rule(guard, 70 + 10 * each, each / 2).kind for each in range(6)]
    assert kinds[-1] == "act"


def test_a_leap_to_beyond_the_limit_delays_nothing_that_has_a_duration() -> None:
    guard = Guard([LIMIT], PACE)
    kinds = [rule(guard, 50 if each < 5 else 98, each / 10).kind for each in range(11)]
    assert kinds == ["hold"] * 10 + ["act"]


def test_a_hard_limit_acts_after_its_duration() -> None:
    guard = Guard([LIMIT], PACE)
    assert rule(guard, 95, 0).kind == "hold"
    found = rule(guard, 95, 0.5)
    assert (found.kind, found.cause) == ("act", "hard limit")
    assert found.words() == "memory.percent at 95 is beyond its hard limit"


def test_the_grey_zone_is_put_to_the_judge_after_its_duration() -> None:
    kinds = [found.kind for found in hold_at(Guard([LIMIT], PACE), 80, 0, 2)]
    assert kinds == ["hold"] * 4 + ["grey"]


@pytest.mark.parametrize(
    ("limit", "just", "words"),
    [
        (Limit(metric="m", hard=90, grey=80, low=65), 90.0, "rise"),
        (Limit(metric="m", hard=10, grey=20, low=35, high_is_bad=False), 10.0, "fall"),
    ],
)
def test_what_is_just_at_a_threshold_is_beyond_it(limit: Limit, just: float, words: str) -> None:
    better = just - limit.sign * 0.1
    assert (limit.is_beyond(just), limit.is_beyond(better)) == (True, False)
    grey = 80.0 if limit.high_is_bad else 20.0
    assert (limit.is_grey(grey), limit.is_grey(grey - limit.sign * 0.1)) == (True, False)
    mixed = limit.model_construct(**{**limit.model_dump(), "low": limit.hard})
    ((_, mistake),) = mixed.mistakes()
    assert mistake == f"low, grey, hard and fatal must {words} in this order"


def test_a_hold_says_of_what_and_for_how_long() -> None:
    guard = Guard([LIMIT], PACE)
    hold_at(guard, 95, 0, 0.5)
    guard.moved(0.5, "act", forced=True)
    found = rule(guard, 96, 1, degraded=True)
    pause_s = PACE.urgent_s
    assert found == Ruling("hold", "cool-down", LIMIT.metric, 96.0, 0.5 + pause_s - 1)

    asking = Guard([LIMIT], PACE)
    (*_, asked) = hold_at(asking, 80, 0, 2)
    asking.asked(2, asked)
    left_s = PACE.ask_every_s - 0.5
    assert rule(asking, 80, 2.5) == Ruling("hold", "asked lately", LIMIT.metric, 80.0, left_s)


def test_a_short_excess_does_nothing() -> None:
    guard = Guard([LIMIT], PACE)
    kinds = {rule(guard, 99 if t % 3 == 0 else 70, t).kind for t in range(200)}
    assert kinds == {"hold"}


def test_it_relaxes_only_what_is_degraded() -> None:
    guard = Guard([LIMIT], PACE)
    for t in range(10):
        assert rule(guard, 60, t).kind == "hold"
    assert rule(guard, 60, 10).cause == "nothing to relax"
    assert rule(guard, 60, 11, degraded=True).kind == "relax"


def test_between_the_thresholds_nothing_changes() -> None:
    kinds = {found.kind for found in hold_at(Guard([LIMIT], PACE), 70, 0, 300)}
    assert kinds == {"hold"}


def test_every_metric_must_be_low_before_it_relaxes() -> None:
    guard = Guard([LIMIT, Limit(metric="pressure", hard=40, grey=5, low=2, low_s=10)], PACE)
    for t in range(30):
        both = {MEMORY: reading(60), "pressure": reading(3, name="pressure")}
        assert guard.rule(t, both, {}).kind == "hold"


def test_an_unread_metric_is_never_taken_for_low() -> None:
    guard = Guard([LIMIT], PACE)
    hold_at(guard, 60, 0, 9)
    assert guard.rule(9.6, readings(0, fault="stale"), {}).cause == "no reading"
    assert guard.rule(10, {}, {}).cause == "no reading"
    assert rule(guard, 60, 12, degraded=True).kind == "hold"


def test_a_metric_that_this_machine_lacks_is_no_obstacle() -> None:
    guard = Guard([LIMIT, Limit(metric="pressure", hard=40, low=2)], PACE)
    found = [guard.rule(t, readings(60), {}).kind for t in range(12)]
    assert found[-1] == "relax"
    assert guard.rule(13, {}, {}).cause == "no reading"
    assert Guard([LIMIT], PACE).rule(0, {}, {}).cause == "no reading"


def test_what_was_seen_before_a_long_blindness_is_forgotten() -> None:
    guard = Guard([LIMIT], PACE)
    rule(guard, 80, 0)
    for t in range(1, 10):
        guard.rule(t, readings(math.nan, fault="not a number"), None)
    assert rule(guard, 80, 10).kind == "hold"
    assert rule(guard, 80, 12).kind == "grey"


def test_a_broken_sensor_does_not_hide_another_metrics_limit() -> None:
    guard = Guard([LIMIT, Limit(metric="pressure", hard=40, hard_s=0)], PACE)
    both = {MEMORY: reading(0, fault="stale"), "pressure": reading(50, name="pressure")}
    assert guard.rule(0, both, None).kind == "act"


FATAL = Limit(metric=MEMORY, hard=92, grey=75, low=65, spare=4, fatal=99, hard_s=0.5, low_s=10)


def test_what_can_be_done_without_goes_back() -> None:
    guard = Guard([FATAL], PACE)
    found = [guard.rule(t, readings(80), {MEMORY: 8.0}) for t in range(11)]
    assert [each.kind for each in found] == ["hold"] * 3 + ["grey"] * 7 + ["relax"]
    assert found[-1].words() == "memory.percent at 80 would stay clear of its hard limit without it"
    assert "relax" not in {guard.rule(t, readings(80), {MEMORY: 9.0}).kind for t in range(11, 99)}


def test_what_cannot_be_told_to_relieve_is_kept_until_all_is_low() -> None:
    guard = Guard([FATAL], PACE)
    assert "relax" not in {guard.rule(t, readings(70), {}).kind for t in range(60)}


def test_a_rising_metric_is_not_done_without() -> None:
    guard = Guard([FATAL], PACE)
    found = [guard.rule(t, readings(70, per_min=30), {MEMORY: 8.0}).kind for t in range(60)]
    assert "relax" not in found


def ramp(guard: Guard, start: float, per_s: float, seconds: float) -> list[Ruling]:
    steps = int(seconds * 5)
    return [guard.rule(n / 5, readings(start + per_s * n / 5), None) for n in range(steps)]


def test_it_acts_before_what_would_be_fatal() -> None:
    fast = [found for found in ramp(Guard([FATAL], PACE), 76, 3.0, 3) if found.kind == "act"]
    assert fast[0].value < 88
    assert fast[0].per_s == pytest.approx(3.0)
    assert "is rising so fast that it would be too late" in fast[0].words()
    assert "act" not in {found.kind for found in ramp(Guard([FATAL], PACE), 76, 0.5, 20)}


def test_noise_is_no_rise() -> None:
    guard, rng = Guard([FATAL], PACE), random.Random(1)
    found = {guard.rule(n / 5, readings(84 + rng.gauss(0, 2)), None).kind for n in range(5000)}
    assert "act" not in found


def test_what_our_own_relaxation_adds_is_no_rise() -> None:
    guard = Guard([FATAL], PACE)
    hold_at(guard, 76, 0, 20)
    guard.moved(20, "relax")
    assert {found.kind for found in hold_at(guard, 90, 20.1, 10)} == {"hold"}


def test_only_what_is_urgent_has_the_short_cool_down() -> None:
    guard = Guard([FATAL], PACE)
    hold_at(guard, 93, 0, 2)
    guard.moved(2, "act", forced=True)
    assert {found.cause for found in hold_at(guard, 93, 2.5, 9)} == {"cool-down"}
    assert rule(guard, 93, 12).kind == "act"
    guard.moved(12, "act", forced=True)
    rising = [guard.rule(13 + n / 5, readings(93 + 2 * n / 5), None) for n in range(5)]
    assert rising[-1].kind == "act"


def test_a_judge_that_asks_again_for_what_went_back_makes_it_patient_too() -> None:
    guard = Guard([LIMIT], PACE)
    guard.moved(0, "act")
    guard.moved(100, "relax")
    guard.moved(170, "act")
    assert guard.dwell_s == 2 * PACE.dwell_s


def test_trouble_may_lie_below() -> None:
    guard = Guard([Limit(metric=MEMORY, hard=5, grey=20, low=40, high_is_bad=False, low_s=0)], PACE)
    assert rule(guard, 50, 0, degraded=True).kind == "relax"
    assert [rule(guard, 4, t).kind for t in (1, 2)] == ["hold", "act"]


def test_after_an_action_there_is_a_cool_down() -> None:
    guard = Guard([LIMIT], PACE)
    hold_at(guard, 80, 0, 5)
    guard.moved(5, "act")
    found = hold_at(guard, 80, 5.5, 9)
    assert {each.cause for each in found} == {"cool-down"}
    assert found[0].remaining_s == 9.5
    assert "still has 10 s" in found[0].words()
    assert rule(guard, 80, 15.5).kind == "grey"


def test_a_hard_limit_waits_only_for_its_own_short_cool_down() -> None:
    guard = Guard([LIMIT], PACE)
    hold_at(guard, 95, 0, 2)
    guard.moved(2, "act")
    assert rule(guard, 95, 2.5).cause == "cool-down"
    assert rule(guard, 95, 3).kind == "act"


def test_a_relaxation_that_was_taken_back_makes_it_patient() -> None:
    guard = Guard([LIMIT], PACE)
    guard.moved(0, "act", forced=True)
    guard.moved(100, "relax")
    guard.moved(110, "act", forced=True)
    assert guard.dwell_s == 2 * PACE.dwell_s
    guard.moved(300, "relax")
    guard.moved(1000, "act", forced=True)
    assert guard.dwell_s == PACE.dwell_s


def test_moves_in_an_hour_are_limited_but_not_hard_ones() -> None:
    guard = Guard([LIMIT], Pace(dwell_s=1, cooldown_s=1, urgent_s=1, per_hour=3))
    for t in (0, 10, 20):
        guard.moved(t, "act")
    hold_at(guard, 80, 30, 4)
    assert rule(guard, 80, 34.5).cause == "rate limit"
    assert hold_at(guard, 95, 35, 1)[-1].kind == "act"
    hold_at(guard, 80, 3600, 5)
    assert rule(guard, 80, 3605.5).kind == "grey"


def test_questions_that_lead_to_nothing_grow_rarer_until_it_gets_worse() -> None:
    guard = Guard([LIMIT], PACE)
    asked = []
    for step in range(400):
        value = 78 if step < 300 else 84
        found = rule(guard, value, step / 2)
        if found.kind == "grey":
            guard.asked(step / 2, found)
            asked.append(step / 2)
    gaps = [b - a for a, b in pairwise(asked)]
    assert gaps[:4] == [5, 10, 20, 20]
    assert 150 in asked  # at once, when it came nearer to the limit


@pytest.mark.parametrize(
    "bad",
    [
        {"hard": 80, "grey": 90},
        {"grey": 50, "low": 60},
        {"hard": 80, "low": 80},
        {"hard": 10, "grey": 20, "high_is_bad": True},
        {"hard": 20, "grey": 10, "high_is_bad": False},
        {"hard": 90, "hard_s": -1},
        {"hard": 90, "fatal": 90},
        {"hard": 90, "spare": 0},
        {"grey": 90, "spare": 5},
    ],
)
def test_thresholds_out_of_order_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="for Limit"):
        Limit(metric="m", **bad)  # type: ignore[arg-type]


def test_a_pace_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="Pace\ndwell_s"):
        Pace(dwell_s=0)


# Properties: whatever the machine does, moves keep their distance.


def drive(guard: Guard, values: list[float], step_s: float = 0.5) -> list[tuple[float, str, bool]]:
    """Every ruling is followed, every question answered with yes."""
    moves, degraded, now_s = [], 0, 0.0
    for value in values:
        found = rule(guard, value, now_s, degraded=degraded > 0)
        if found.kind in ("act", "grey"):
            forced = found.kind == "act"
            guard.moved(now_s, "act", forced)
            degraded += 1
            moves.append((now_s, "act", forced))
        elif found.kind == "relax":
            guard.moved(now_s, "relax")
            degraded -= 1
            moves.append((now_s, "relax", False))
        now_s += step_s
    return moves


walks = st.tuples(st.integers(0, 2**32), st.floats(0.1, 15))


@given(walks)
def test_no_flap_is_faster_than_the_dwell(walk: tuple[int, float]) -> None:
    rng, value, values = random.Random(walk[0]), 75.0, []
    for _ in range(1500):
        value = min(100.0, max(40.0, value + rng.gauss(0, walk[1])))
        values.append(value)
    moves = drive(Guard([LIMIT], PACE), values)
    for before, after in pairwise(moves):
        if before[1] != after[1] and not after[2]:
            assert after[0] - before[0] >= PACE.dwell_s
    relaxed = [at_s for at_s, kind, _ in moves if kind == "relax"]
    flips = [b for a, b in pairwise(moves) if (a[1], b[1]) == ("act", "relax")]
    assert len(flips) <= 750 / PACE.dwell_s + 1
    assert all(b - a >= PACE.cooldown_s for a, b in pairwise(relaxed))


@given(st.floats(0, 100))
def test_a_steady_value_never_flaps(value: float) -> None:
    kinds = {kind for _, kind, _ in drive(Guard([LIMIT], PACE), [value] * 1000)}
    assert len(kinds) <= 1


@given(
    threshold=st.sampled_from([65.0, 75.0, 92.0]),
    seed=st.integers(0, 2**32),
    noise=st.floats(0.01, 4),
)
def test_noise_around_a_threshold_is_bounded(threshold: float, seed: int, noise: float) -> None:
    rng = random.Random(seed)
    values = [threshold + rng.uniform(-noise, noise) for _ in range(2000)]
    moves = drive(Guard([LIMIT], PACE), values)
    # Noise smaller than the distance of the thresholds moves it one way, or not at all.
    assert len({kind for _, kind, _ in moves}) <= 1
