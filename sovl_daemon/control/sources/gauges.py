"""Gauges that agents give: what only they know, such as bytes of conversations or a loss."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from sovl_daemon.control.sources.source import Values


class Gauge(NamedTuple):
    """A value, and when it was given, on the monotonic clock."""

    value: float
    taken_s: float


class Gauges:
    """The last value of each gauge. A gauge that is no longer given grows stale."""

    def __init__(self) -> None:
        self._last: dict[str, Gauge] = {}

    def give(self, name: str, value: float, taken_s: float) -> None:
        """Take a value from an agent; a metric's own check finds out what is wrong with it."""
        self._last[name] = Gauge(value, taken_s)

    def read(self) -> Values:
        """All values, whatever their age."""
        return {name: gauge.value for name, gauge in self._last.items()}

    def taken_s(self, name: str) -> float:
        """When it was given; minus infinity for never."""
        gauge = self._last.get(name)
        return -math.inf if gauge is None else gauge.taken_s


class Ratio:
    """A value against its own running mean: 1 is as ever, 2 twice as much. For losses."""

    def __init__(self, memory: int = 50) -> None:
        self._keep = 1.0 - 1.0 / memory
        self._mean: float | None = None

    def add(self, value: float) -> float:
        """Return the value over the mean of those before it; 1 for the first."""
        mean = value if self._mean is None else self._mean
        self._mean = self._keep * mean + (1.0 - self._keep) * value
        return value / mean if mean > 0 else 1.0


class Rate:
    """A share or a rate of events over a window of seconds, such as errors or tokens."""

    def __init__(self, window_s: float = 60.0) -> None:
        self._window_s = window_s
        self._events: deque[tuple[float, float, bool]] = deque()

    def add(self, now_s: float, amount: float = 1.0, *, failed: bool = False) -> None:
        """Count an event of an amount, or a failed one."""
        self._events.append((now_s, amount, failed))

    def per_s(self, now_s: float) -> float:
        """The amount of the window, a second."""
        self._forget(now_s)
        return math.fsum(amount for _, amount, _ in self._events) / self._window_s

    def failed_percent(self, now_s: float) -> float:
        """The share of failed events, in percent; 0 of none."""
        self._forget(now_s)
        failed = sum(failed for _, _, failed in self._events)
        return 100.0 * failed / len(self._events) if self._events else 0.0

    def _forget(self, now_s: float) -> None:
        while self._events and self._events[0][0] <= now_s - self._window_s:
            self._events.popleft()
