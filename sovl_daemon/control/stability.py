"""The stability score: one number, 0 to 1, for how calm a task's metrics have been."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from sovl_daemon.control.metric import Metric, Reading

WINDOW_S = 120.0
TOLERANCE = 0.05
"""The standard deviation, as a share of the metric's scale, that halves the score."""

HOUR_S = 3600.0
INTERVENTIONS = 6
"""How many interventions in an hour halve the score."""


def stability(sound: float, deviation: float, interventions: int) -> float:
    """Return the stability, 0 (nothing can be relied on) to 1 (all sensors sound, nothing moves).

        stability = sound * 1 / (1 + (deviation / 0.05)^2) * 1 / (1 + interventions / 6)

    `sound` is the share of readings without fault, `deviation` the largest standard deviation of a
    metric within the window as a share of its scale, `interventions` the actions of the last hour.
    Each factor alone can only lower it: a calm machine with a broken sensor is not stable.

    Raises:
        ValueError: an argument is outside its range.

    """
    if not (0 <= sound <= 1 and deviation >= 0 and interventions >= 0):
        raise ValueError(
            f"sound {sound}, deviation {deviation}, interventions {interventions} are not allowed:"
            " give 0 to 1, and 0 or more"
        )
    calm = 1.0 / (1.0 + (deviation / TOLERANCE) ** 2)
    return sound * calm / (1.0 + interventions / INTERVENTIONS)


class StabilityScore:
    """The stability of some metrics over the last two minutes."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._spans = {metric.name: metric.span for metric in metrics}
        self._readings: deque[tuple[float, Reading]] = deque()
        self._actions: deque[float] = deque()

    def add(self, now_s: float, readings: Iterable[Reading]) -> None:
        """Take a round of readings; metrics that are not ours are left out."""
        self._readings.extend((now_s, each) for each in readings if each.name in self._spans)
        while self._readings and self._readings[0][0] < now_s - WINDOW_S:
            self._readings.popleft()

    def acted(self, now_s: float) -> None:
        """Count an intervention."""
        self._actions.append(now_s)

    def value(self, now_s: float) -> float:
        """The score now; 0 as long as nothing was read."""
        while self._actions and self._actions[0] < now_s - HOUR_S:
            self._actions.popleft()
        if not self._readings:
            return 0.0
        sound = [reading for _, reading in self._readings if not reading.fault]
        by_name: dict[str, list[float]] = {}
        for reading in sound:
            by_name.setdefault(reading.name, []).append(reading.value)
        deviations = (_spread(values) / self._spans[name] for name, values in by_name.items())
        share = len(sound) / len(self._readings)
        return stability(share, max(deviations, default=0.0), len(self._actions))


def _spread(values: list[float]) -> float:
    """The standard deviation, around the mean; quicker than the exact one of the library."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
