import itertools
import math
import random
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.controls import ControlsConfig
from config.mind import TrainingConfig
from sovl_daemon.laboratory.mind.simulation import (
    EventKind,
    LifeEvent,
    MindSimulation,
    MindSnapshot,
)
from sovl_daemon.laboratory.mind.visitor import Knowledge, Prompt, prompts, similarity


def live(hours: float = 24, seed: int = 1, **knobs: Any) -> list[MindSnapshot]:
    training = {
        name: knobs.pop(name) for name in list(knobs) if name in TrainingConfig.model_fields
    }
    simulation = MindSimulation(
        ControlsConfig(**knobs),
        TrainingConfig(**training),
        hours=hours,
        seed=seed,
        parameters=122_880,
    )
    return list(simulation.run())


def events(life: Sequence[MindSnapshot], kind: EventKind | None = None) -> list[LifeEvent]:
    return [each for moment in life for each in moment.events if kind in (None, each.kind)]


def asleep(life: Sequence[MindSnapshot]) -> float:
    """The share of a life that is slept through."""
    return sum(moment.asleep for moment in life) / len(life)


def spoken(seed: int) -> list[Prompt]:
    """All that is said in a day."""
    world = random.Random(seed)
    Knowledge(world)
    return list(prompts(24, world))


@pytest.fixture(scope="module")
def life() -> list[MindSnapshot]:
    return live()


def test_a_moment_a_minute(life: list[MindSnapshot]) -> None:
    assert [moment.time_s for moment in life] == [60.0 * minute for minute in range(24 * 60 + 1)]


def test_a_day_has_all_that_a_mind_does(life: list[MindSnapshot]) -> None:
    assert {event.kind for event in events(life)} == set(get_args(EventKind))


def test_events_come_in_their_order_and_in_their_minute(life: list[MindSnapshot]) -> None:
    times = [event.time_s for event in events(life)]
    assert times == sorted(times)
    for moment in life:
        assert all(moment.time_s - 60 < each.time_s <= moment.time_s for each in moment.events)


def test_sleeping_and_waking_take_turns(life: list[MindSnapshot]) -> None:
    kinds = [event.kind for event in events(life) if event.kind in ("sleep", "wake")]
    assert kinds == ["sleep", "wake"] * (len(kinds) // 2) + ["sleep"] * (len(kinds) % 2)
    asleep = False
    for moment in life:
        for event in moment.events:
            asleep = {"sleep": True, "wake": False}.get(event.kind, asleep)
        assert moment.asleep == asleep


def test_nights_make_it_surer(life: list[MindSnapshot]) -> None:
    known = [moment.confidence for moment in life if moment.confidence is not None]
    assert sum(known[-60:]) / 60 > sum(known[:60]) / 60 + 0.15
    untrained = [moment.confidence for moment in live(enable_sleep_training=False)]
    assert untrained[-1] is not None
    assert untrained[-1] < known[-1]


def test_the_first_words_come_once() -> None:
    assert [event.time_s for event in events(live(), "first words")] == [0]
    assert events(live(has_woken=True), "first words") == []
    asleep = events(live(is_sleeping=True))
    assert [(event.time_s, event.kind) for event in asleep][:2] == [(0, "sleep"), (0, "wake")]


def test_influence_moves_at_the_end_of_nights_alone(life: list[MindSnapshot]) -> None:
    assert life[0].influence == 0
    for before, after in itertools.pairwise(life):
        if before.influence != after.influence:
            assert "wake" in [event.kind for event in after.events]
    assert life[-1].influence > 0.07


def test_the_same_seed_gives_the_same_life_and_another_another(life: list[MindSnapshot]) -> None:
    assert live() == life
    assert live(seed=2) != life


@pytest.mark.parametrize(
    ("knob", "value", "kind"),
    [
        ("enable_gestation", False, "sleep"),
        ("enable_dreaming", False, "dream"),
        ("has_woken", True, "first words"),
    ],
)
def test_what_is_switched_off_does_not_happen(knob: str, value: bool, kind: EventKind) -> None:
    assert events(live(**{knob: value}), kind) == []


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("sleep_log_min", 20),
        ("sleep_conf_threshold", 0.9),
        ("sleep_time_factor", 0.5),
        ("dream_lifecycle_delta", 0.2),
        ("dream_prompt_weight", 0.0),
        ("temp_smoothing_factor", 0.9),
        ("learning_rate", 1e-6),
        ("exposure_gain_default", 9),
        ("lifecycle_curve", "exponential"),
    ],
)
def test_a_turned_knob_makes_another_life(life: list[MindSnapshot], knob: str, value: Any) -> None:
    assert live(**{knob: value}) != life


def test_it_does_not_dream_while_somebody_speaks(life: list[MindSnapshot]) -> None:
    said = [prompt.time_s for prompt in spoken(seed=1)]
    dreamt = [event.time_s for event in events(life, "dream")]
    assert dreamt
    for time_s in dreamt:
        assert time_s - max(each for each in said if each <= time_s) >= 20


def test_whoever_speaks_wakes_it(life: list[MindSnapshot]) -> None:
    nights = [each for each in events(life) if each.kind in ("sleep", "wake")]
    said = [math.ceil(each.time_s / 10) * 10 for each in spoken(seed=1)]
    for sleep, wake in zip(nights[::2], nights[1::2], strict=False):
        assert not any(sleep.time_s < time_s < wake.time_s for time_s in said)
        assert wake.detail.startswith("called") <= (wake.time_s in said)
    assert any(each.detail.startswith("called") for each in nights)


def test_what_a_night_that_is_cut_off_was_about_is_learned_the_next(
    life: list[MindSnapshot],
) -> None:
    said = [math.ceil(each.time_s / 10) * 10 for each in spoken(seed=1)]
    begun, fell_asleep_s, later = 0, 0.0, 0
    for moment in life:
        for event in moment.events:
            if event.kind == "sleep":
                entries = int(event.detail.split(", ")[1].split()[0])
                begun, fell_asleep_s = begun or entries, event.time_s
            elif event.kind == "wake" and event.detail.startswith("rested"):
                since = sum(fell_asleep_s < time_s <= moment.time_s for time_s in said)
                assert moment.entries == entries - begun + since
                later += entries > begun
                begun = 0
    assert later


def test_a_night_lasts_as_its_knob_says() -> None:
    hurried, usual, long = (asleep(live(sleep_time_factor=factor)) for factor in (0.5, 1.0, 5.0))
    assert hurried < usual < long


def test_without_training_a_night_lasts_as_long_as_it_may_and_leaves_all() -> None:
    life = live(enable_sleep_training=False)
    assert asleep(life) > asleep(live())
    assert life[-1].influence == 0
    assert all(after.entries >= before.entries for before, after in itertools.pairwise(life))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**40), hours=st.floats(0.1, 12), log_min=st.integers(5, 20))
def test_every_moment_is_in_range(seed: int, hours: float, log_min: int) -> None:
    exposure = 0
    for moment in live(hours, seed, sleep_log_min=log_min, is_sleeping=bool(seed % 2)):
        shares = (moment.tiredness, moment.pressure, moment.influence, moment.confidence or 0)
        assert all(0 <= share <= 1 for share in shares)
        assert -1 <= moment.temperament <= 1
        assert moment.exposure >= exposure
        exposure = moment.exposure


@pytest.mark.parametrize("hours", [0, -1, float("nan")])
def test_a_life_takes_time(hours: float) -> None:
    with pytest.raises(ValueError, match=r"hours are not allowed: give more than 0"):
        live(hours)


# The visitor


@given(seed=st.integers(0, 1000))
def test_what_is_said_comes_in_its_order_and_in_visits(seed: int) -> None:
    said = list(prompts(24, random.Random(seed)))
    times = [prompt.time_s for prompt in said]
    assert times == sorted(times)
    assert not said or said[0].opens
    for before, after in itertools.pairwise(said):
        assert after.opens or after.time_s - before.time_s <= 90


def test_nights_are_quieter_than_days() -> None:
    said = [each for seed in range(100) for each in prompts(24, random.Random(seed))]
    night = sum(each.time_s > 17 * 3600 for each in said)
    assert night / 7 < 0.3 * (len(said) - night) / 17


def test_learning_closes_what_is_missing() -> None:
    slow, fast = (Knowledge(random.Random(5)) for _ in range(2))
    before = slow.confidence(3), fast.confidence(3)
    assert before[0] == before[1]
    slow.learn(3, 1e-6)
    fast.learn(3, 1e-4)
    assert slow.confidence(3) < fast.confidence(3)


def test_a_topic_is_most_like_itself() -> None:
    assert similarity(1, 1) == 1 > similarity(1, 2)
