"""What is measured: declared metrics, and readings that are checked before anyone judges them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from sovl_daemon.control.declared import Declared, Mistake, Name, Seconds
from sovl_daemon.control.trend import Trend

Fault = Literal["", "missing", "not a number", "out of range", "stale", "frozen", "clock jump"]

_AHEAD_S = 0.5  # a reading may be this far ahead of us: clocks of two processes are never one
_WALL_TOLERANCE_S = 2.0  # what a time server may put right in a round without being a jump


class Metric(Declared):
    """One declared metric.

    Attributes:
        name: Dotted name, for example `memory.percent`.
        unit: What the number counts: `%`, `bytes`, `s`, `/s`, or empty for a plain number.
        low: Smallest possible value.
        high: Largest possible value; with `low` it is the scale that changes are measured on.
        fresh_s: Age above which a reading is stale.
        frozen_s: How long the very same value may be read before the sensor counts as frozen; None
            for what rightly stands still, such as a queue's length. After a twentieth of it no
            move rests on the value.

    """

    name: Name
    unit: str = ""
    low: float = 0.0
    high: float
    fresh_s: Seconds = 3.0
    frozen_s: Seconds | None = None

    def mistakes(self) -> Iterator[Mistake]:
        """A scale that is none."""
        if not self.low < self.high:
            yield ("high",), f"must be above low ({self.low:g})"

    @property
    def still_s(self) -> float:
        """How long the very same value may be read before it is doubted."""
        return math.inf if self.frozen_s is None else self.frozen_s / 20

    @property
    def span(self) -> float:
        """The length of the scale."""
        return self.high - self.low


class Reading(NamedTuple):
    """One checked reading. With a `fault` the value means nothing and must not be judged.

    `time_s` is when it was taken, on the monotonic clock; `per_min` its trend, in units a minute.
    """

    name: str
    value: float
    time_s: float
    per_min: float = 0.0
    fault: Fault = ""


class Inspector:
    """Checks the readings of one metric, one after another."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._low, self._high = metric.low, metric.high
        self._frozen_s = math.inf if metric.frozen_s is None else metric.frozen_s
        self._trend = Trend(gap_s=max(10.0, 3 * metric.fresh_s))
        self._last_s = -math.inf
        self._value = self._previous = self._before = math.nan
        self._same_since_s = 0.0

    def check(self, value: float | None, taken_s: float, now_s: float) -> Reading:
        """Return the reading, marked with its fault if it has one.

        `taken_s` and `now_s` are on the same monotonic clock; `value` is None where the source had
        nothing to give.
        """
        name = self.metric.name
        fault = self._fault(value, taken_s, now_s)
        if fault or value is None:
            return Reading(name, math.nan, taken_s, 0.0, fault)
        return Reading(name, value, taken_s, 60.0 * self._trend.add(taken_s, self._middle(value)))

    def _middle(self, value: float) -> float:
        """The median of the last three: one wild reading does not make a trend."""
        a, b, self._before, self._previous = self._before, self._previous, self._previous, value
        if a != a or b != b:  # not two before it yet
            return value
        return max(min(a, b), min(max(a, b), value))

    def jumped(self) -> None:
        """Forget times and trend: the clock jumped, and what was before cannot be compared."""
        self._trend.forget()
        self._last_s = -math.inf
        self._value = self._previous = self._before = math.nan

    def _fault(self, value: float | None, taken_s: float, now_s: float) -> Fault:
        if value is None:
            return "missing"
        if value - value != 0.0:  # infinity and what is not a number, at a third of isfinite's cost
            return "not a number"
        if taken_s < self._last_s or taken_s > now_s + _AHEAD_S:
            self.jumped()
            return "clock jump"
        self._last_s = taken_s
        if now_s - taken_s > self.metric.fresh_s:
            return "stale"
        if not self._low <= value <= self._high:
            return "out of range"
        if value != self._value:
            self._value, self._same_since_s = value, taken_s
        elif taken_s - self._same_since_s >= self._frozen_s:
            return "frozen"
        return ""


class Clock:
    """Notices when the wall clock jumps, or the machine slept, by the monotonic clock."""

    def __init__(self) -> None:
        self._offset_s: float | None = None

    def jump_s(self, monotonic_s: float, wall_s: float) -> float:
        """Return by how much the wall clock jumped since the last call; 0 if it kept its pace."""
        offset_s = wall_s - monotonic_s
        before_s, self._offset_s = self._offset_s, offset_s
        moved_s = 0.0 if before_s is None else offset_s - before_s
        return moved_s if abs(moved_s) > _WALL_TOLERANCE_S else 0.0
