"""The temperament: a score that follows confidence and age, slowly, and the mood it stands for.

Knobs are those of the section `controls_config`, by their names there.
"""

import random
from dataclasses import dataclass, field
from typing import Literal

from config.controls import ControlsConfig
from sovl_daemon.mind.confidence import NEUTRAL
from sovl_daemon.mind.history import History

Mood = Literal["melancholic", "restless", "calm", "curious"]

_FASTEST = 0.1  # the share of the way to the target that an update goes without smoothing
_MELANCHOLIC = -0.5
_YOUNG, _OLD = 0.25, 0.75  # stages of a life
_UNREST = 0.2
_TEMPERATURE_SPAN = 0.3
_COLDEST, _HOTTEST = 0.5, 1.5


@dataclass(frozen=True, slots=True)
class Temperament:
    """A score in -1 (melancholic) to 1 (curious), and the scores of the last updates.

    Raises:
        ValueError: the score is out of its range.

    """

    score: float = 0.0
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        if not -1 <= self.score <= 1:
            raise ValueError(f"temperament {self.score} is not allowed: give -1 to 1")


def target(
    confidence: float | None, stage: float, history: History, knobs: ControlsConfig
) -> float:
    """Return the score, in -1..1, that the temperament is drawn to.

    `confidence` is the mean of the last answers' (None: not known yet, which counts as 0.5);
    `stage` is exposure / capacity, the part of its life that is lived; `history` holds the scores
    of the last updates. Confidence above 0.5 lifts the target, by 2 + `conf_feedback_strength` for
    each unit of it; then age moves it, see `_bias`.
    """
    surplus = (NEUTRAL if confidence is None else confidence) - NEUTRAL
    drawn = (2 + knobs.conf_feedback_strength) * surplus + _bias(stage, history, knobs)
    return _clamp(drawn, -1, 1)


def updated(
    temperament: Temperament, confidence: float | None, stage: float, knobs: ControlsConfig
) -> Temperament:
    """Return the temperament after one more answer; arguments as of `target`.

    An exponential moving average: the score goes 0.1 * (1 - `temp_smoothing_factor`) of the way to
    its target, so a factor of 1 holds it still.
    """
    history = temperament.history.resized(knobs.temperament_history_maxlen)
    way = target(confidence, stage, history, knobs) - temperament.score
    share = _FASTEST * (1 - knobs.temp_smoothing_factor)
    score = _clamp(temperament.score + share * way, -1, 1)
    return Temperament(score, history.add(score))


def mood(score: float, knobs: ControlsConfig) -> Mood:
    """Return the name of the mood that a score stands for.

    Melancholic up to -0.5, then restless up to the sluggish edge, calm up to the eager edge, and
    curious above it. The thresholds are on the scale of confidence, 0..1: their ranges lie around
    0.75 and 0.5, and 2 * (threshold - 0.5), by which confidence makes the target, carries those to
    0.5 and 0, the edges that SOVL had before its thresholds moved them. By default (0.8 and 0.6)
    the edges are 0.6 and 0.2.
    """
    if score <= _MELANCHOLIC:
        return "melancholic"
    if score <= _edge(knobs.temp_sluggish_threshold):
        return "restless"
    return "calm" if score <= _edge(knobs.temp_eager_threshold) else "curious"


def sampling_temperature(score: float, knobs: ControlsConfig, noise: random.Random) -> float:
    """Return the sampling temperature, in 0.5..1.5, of an answer given in this temperament.

    `base_temperature` moves with the score, by 0.3 * `temp_mood_influence` at most. A restless
    mood lowers it by `temp_restless_drop`; a melancholic one makes it waver by a normal deviation
    of `temp_melancholy_noise`, drawn from `noise`. Both are in units of temperature and hold
    whatever the influence is: each knob has an effect of its own.
    """
    temperature = knobs.base_temperature + knobs.temp_mood_influence * _TEMPERATURE_SPAN * score
    named = mood(score, knobs)
    if named == "restless":
        temperature -= knobs.temp_restless_drop
    elif named == "melancholic":
        temperature += noise.gauss(0, knobs.temp_melancholy_noise)
    return _clamp(temperature, _COLDEST, _HOTTEST)


def _bias(stage: float, history: History, knobs: ControlsConfig) -> float:
    """How age moves the target.

    Youth lifts it by up to `temp_curiosity_boost`, age lowers it by as much, and between them an
    unsteady temperament lowers it by 0.2 of its variance. A life beyond its capacity grows no
    older: without that bound, nothing could ever lift the mood of an old mind again.
    """
    stage = _clamp(stage, 0, 1)
    if stage < _YOUNG:
        return knobs.temp_curiosity_boost * (1 - stage / _YOUNG)
    if stage < _OLD:
        return -_UNREST * history.variance
    return -knobs.temp_curiosity_boost * (stage - _OLD) / (1 - _OLD)


def _edge(threshold: float) -> float:
    return 2 * (threshold - NEUTRAL)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
