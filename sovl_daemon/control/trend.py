"""How fast a value rises, from readings that come at uneven times."""

from __future__ import annotations

import math

FAST_S = 1.5
SLOW_S = 10.0


class Trend:
    """The slope of a series, as the distance of two exponential averages.

    An exponential average with time constant tau lags behind a ramp of slope r by r * tau, so two
    of them lie r * (SLOW_S - FAST_S) apart: slope = (fast - slow) / (SLOW_S - FAST_S). Constant
    memory and time, no window; noise is averaged over some FAST_S,
    and half of a change of slope is seen within 8 s.
    """

    __slots__ = ("_fast", "_gap_s", "_last_s", "_slow")

    def __init__(self, gap_s: float = 10.0) -> None:
        self._gap_s = gap_s
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._last_s = -math.inf
        self._fast = self._slow = 0.0

    def add(self, time_s: float, value: float) -> float:
        """Take the next reading and return the slope, in units a second.

        After a gap of more than `gap_s` it begins anew, with slope 0.
        """
        passed_s = time_s - self._last_s
        self._last_s = time_s
        if passed_s > self._gap_s:
            self._fast = self._slow = value
            return 0.0
        self._fast += (value - self._fast) * (1.0 - math.exp(-passed_s / FAST_S))
        self._slow += (value - self._slow) * (1.0 - math.exp(-passed_s / SLOW_S))
        return (self._fast - self._slow) / (SLOW_S - FAST_S)
