"""Every knob that the mind's modules read changes what they do: one row of a table each."""

import ast
import inspect
import random
from collections.abc import Callable
from typing import Any

import pytest

from config.controls import ControlsConfig
from config.mind import TrainingConfig
from sovl_daemon.laboratory.mind import simulation, visitor
from sovl_daemon.mind import curiosity, dreams, lifecycle, sleep, state, wake
from sovl_daemon.mind.dreams import DreamMemory, DreamReason
from sovl_daemon.mind.history import History
from sovl_daemon.mind.state import Mind
from sovl_daemon.mind.temperament import Temperament, sampling_temperature

MODULES = (curiosity, dreams, lifecycle, simulation, sleep, state, visitor, wake)
STEADY, SWINGING = (0.6,) * 5, (0.2, 0.9, 0.2, 0.9, 0.9)
SWINGS = Mind(confidences=History(SWINGING), fresh_answers=1)
DRIFTS = Mind(
    confidences=History(STEADY),
    temperament=Temperament(0.0, History((-0.5, 0, 0))),
    fresh_answers=1,
)
EAGER = Mind(temperament=Temperament(0.6))
AWAKE = sleep.Rhythm(0)


def answered(mind: Mind, controls: ControlsConfig, training: TrainingConfig) -> Mind:
    return mind.answered(0.6, unseen=True, capacity=100, knobs=controls, training=training)


def slept(controls: ControlsConfig, training: TrainingConfig) -> float:
    return Mind(exposure=30).slept("", capacity=100, training=training).influence(controls)


def lived(controls: ControlsConfig, training: TrainingConfig) -> bool:
    """Whether anything was learned in half a day."""
    life = simulation.MindSimulation(controls, training, hours=12, seed=1, parameters=122_880)
    return any(moment.influence > 0 for moment in life.run())


def why_sleep(controls: ControlsConfig, entries: int, confidence: float) -> str | None:
    return sleep.sleep_reason(
        AWAKE, 60, entries=entries, confidence=confidence, stage=0, knobs=controls
    )


def why_dream(controls: ControlsConfig, score: float = 0) -> DreamReason | None:
    return dreams.dream_reason(History(STEADY), Temperament(score), 0, controls)


def contents(controls: ControlsConfig, count: int) -> list[int]:
    memory = DreamMemory[int]()
    for content in range(count):
        memory = memory.add(content, controls)
    return [dream.content for dream in memory.dreams]


def blending(controls: ControlsConfig) -> tuple[float, ...]:
    return DreamMemory[int]().add(1, controls).blending(controls)


def oldest_weight(controls: ControlsConfig) -> float:
    return DreamMemory[int]().add(1, controls).add(2, controls).dreams[0].weight


def remembered_answers(controls: ControlsConfig, training: TrainingConfig) -> tuple[int, int]:
    mind = Mind()
    for _ in range(12):
        mind = answered(mind, controls, training)
    return len(mind.confidences), len(mind.temperament.history)


Observable = Callable[[ControlsConfig, TrainingConfig], Any]
# Knob: the value it is turned to, what is observed, by default, and after the turn.
TABLE: dict[str, tuple[Any, Observable, Any, Any]] = {
    # Life
    "lifecycle_capacity_factor": (0.1, lambda _, t: lifecycle.capacity(100, t), 1, 10),
    "exposure_gain_eager": (5, lambda c, t: answered(EAGER, c, t).exposure, 3, 5),
    "exposure_gain_default": (1, lambda c, t: answered(Mind(), c, t).exposure, 2, 1),
    "lifecycle_curve": ("exponential", slept, 0.268941, 0.451188),
    "sigmoid_scale": (1.0, slept, 0.268941, 0.119203),
    "sigmoid_shift": (3.0, slept, 0.268941, 0.5),
    "learning_rate": (2e-4, lambda _, t: lifecycle.night_learning_rate(0, t), 4e-3, 1e-4),
    "enable_lifecycle_weighting": (False, slept, 0.268941, 1),
    "enable_sleep_training": (False, lived, True, False),
    # Sleep
    "enable_gestation": (False, lambda c, _: why_sleep(c, 10, 0.8), "ready", None),
    "sleep_conf_threshold": (0.9, lambda c, _: why_sleep(c, 10, 0.8), "ready", None),
    "sleep_log_min": (5, lambda c, _: why_sleep(c, 5, 0.8), None, "ready"),
    "sleep_time_factor": (2.5, lambda c, _: sleep.longest_night(10, c), 600, 1500),
    "is_sleeping": (True, lambda c, _: Mind.born(c).asleep, False, True),
    # Temperature
    "base_temperature": (1.0, lambda c, _: sampling_temperature(0.4, c, random.Random(0)), 0.7, 1),
    # Dreams
    "enable_dreaming": (False, lambda c, _: SWINGS.dream_reason(c), "swing", None),
    "dream_swing_var": (0.15, lambda c, _: SWINGS.dream_reason(c), "swing", None),
    "dream_lifecycle_delta": (0.2, lambda c, _: why_dream(c, 0.15), "shift", None),
    "dream_temperament_on": (False, lambda c, _: DRIFTS.dream_reason(c), "drift", None),
    "dream_noise_scale": (0.02, lambda c, _: dreams.noise(0, False, c), 0.05, 0.02),
    "dream_novelty_boost": (0.01, lambda c, _: dreams.noise(0, True, c), 0.08, 0.06),
    "temp_melancholy_noise": (0.04, lambda c, _: dreams.noise(-0.8, False, c), 0.07, 0.09),
    "dream_prompt_weight": (1.0, lambda c, _: dreams.choice_weights([1, 0], c)[0], 0.6, 1),
    "enable_prompt_driven_dreams": (
        False, lambda c, _: dreams.choice_weights([1, 0], c)[0], 0.6, 1 / 3
    ),
    "dream_memory_maxlen": (5, lambda c, _: len(contents(c, 12)), 10, 5),
    "dream_memory_decay": (0.5, lambda c, _: oldest_weight(c), 0.95, 0.5),
    "dream_prune_threshold": (0.99, lambda c, _: contents(c, 3), [0, 1, 2], [2]),
    "dream_memory_weight": (0.4, lambda c, _: blending(c), (0.1,), (0.4,)),
    # Waking, and what it keeps of its answers
    "has_woken": (True, lambda c, _: wake.wakes(False, c), True, False),
    "enable_temperament": (False, lambda c, _: EAGER.score(c), 0.6, 0),
    "enable_confidence_tracking": (False, lambda c, _: SWINGS.confidence(c), 0.62, None),
    "confidence_history_maxlen": (8, remembered_answers, (5, 5), (8, 5)),
    "temperament_history_maxlen": (3, remembered_answers, (5, 5), (5, 3)),
}  # fmt: skip


@pytest.mark.parametrize("knob", TABLE)
def test_each_knob_changes_what_happens(knob: str) -> None:
    value, observe, by_default, turned = TABLE[knob]
    section = ControlsConfig if knob in ControlsConfig.model_fields else TrainingConfig
    controls, training = ControlsConfig(), TrainingConfig()
    assert observe(controls, training) == pytest.approx(by_default, abs=1e-6)
    after = section(**{knob: value})
    if isinstance(after, ControlsConfig):
        assert observe(after, training) == pytest.approx(turned, abs=1e-6)
    else:
        assert observe(controls, after) == pytest.approx(turned, abs=1e-6)
    assert by_default != turned


def test_the_table_has_every_knob_that_is_read() -> None:
    known = {*ControlsConfig.model_fields, *TrainingConfig.model_fields}
    read = {
        node.attr
        for module in MODULES
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and ast.unparse(node.value).removeprefix("self._") in ("knobs", "training")
    }
    assert read <= known
    assert len(read) > 25
    assert read <= set(TABLE)
