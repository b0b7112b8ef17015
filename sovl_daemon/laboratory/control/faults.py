"""What may be wrong: sensors, actions and judges that do not do what they should."""

from __future__ import annotations

import math
import random
from typing import Literal, NamedTuple

from sovl_daemon.laboratory.control.plant import Plant

SensorFault = Literal["", "nan", "frozen", "spiking", "clock"]
ActionFault = Literal["", "lies"]

_EVERY_S = 300.0
_LASTS_S = (20.0, 90.0)
_SPIKES = 0.03
_SPIKE = 40.0
_JUMP_S = 45.0

SLOWEST_S = 5.0
"""An action shows its effect after a quarter of a second up to this."""


class SensorReadings(NamedTuple):
    """What the sensors say: memory in use, pressure, conversations, and the time they give."""

    memory: float
    pressure: float
    kv: float
    taken_s: float


class Sensors:
    """The sensors of a plant, the memory sensor with a fault now and then."""

    def __init__(self, plant: Plant, noise: float, rng: random.Random, fault: SensorFault) -> None:
        self._plant, self._noise, self._rng, self._fault = plant, noise, rng, fault
        self._held = math.nan
        self.error = 0.0
        """By how much the last reading of memory was wrong; not a number if it was none."""
        self._from_s = rng.expovariate(1 / _EVERY_S) if fault else math.inf
        self._until_s = self._from_s + rng.uniform(*_LASTS_S)

    def read(self, now_s: float) -> SensorReadings:
        """Read all at once."""
        plant = self._plant
        memory = plant.used() + self._rng.gauss(0.0, self._noise)
        memory = 0.0 if memory < 0.0 else 100.0 if memory > 100.0 else memory
        sound = SensorReadings(memory, plant.pressure(), plant.kv(), now_s)
        given = self._spoil(sound, now_s) if now_s >= self._from_s else sound
        self.error = abs(given.memory - sound.memory)
        return given

    def _spoil(self, sound: SensorReadings, now_s: float) -> SensorReadings:
        if now_s > self._until_s:
            self._from_s = now_s + self._rng.expovariate(1 / _EVERY_S)
            self._until_s = self._from_s + self._rng.uniform(*_LASTS_S)
            self._held = math.nan
            return sound
        if self._fault == "nan":
            return sound._replace(memory=math.nan)
        if self._fault == "frozen":
            self._held = sound.memory if math.isnan(self._held) else self._held
            return sound._replace(memory=self._held)
        if self._fault == "spiking":
            spikes = self._rng.random() < _SPIKES
            return sound._replace(memory=min(100.0, sound.memory + _SPIKE)) if spikes else sound
        back = self._rng.random() < _SPIKES
        return sound._replace(taken_s=now_s - _JUMP_S) if back else sound


def effect_delay_s(rng: random.Random) -> float:
    """How long an action takes to show its effect, 0.25 to 5 s, mostly soon."""
    return min(SLOWEST_S - 0.2, 0.25 + rng.expovariate(1 / 0.8))
