"""How fast a value rises, from readings that come at uneven times."""

from __future__ import annotations

import math
from collections import deque

FAST_S = 1.5
SLOW_S = 10.0
WINDOW_S = 3.0
_STUDENT = {1: 12.7, 2: 4.3, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31}  # 0.975


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


class Slope:
    """The slope of the last three seconds, quick to see a rise and slow to believe it.

    A straight line is fitted to what was read in the window; what counts is the lower end of its
    95 % interval, so that a noisy sensor does not look like a rise.
    """

    __slots__ = ("_points",)

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()

    def forget(self) -> None:
        """Begin anew."""
        self._points.clear()

    def add(self, time_s: float, value: float) -> None:
        """Take the next reading."""
        points = self._points
        points.append((time_s, value))
        while points[0][0] < time_s - WINDOW_S:
            points.popleft()

    def at_least(self) -> float:
        """The slope, in units a second, that is exceeded with a probability of 0.975; 0 or more.

        By the standard error of least squares; below three readings nothing is known.
        """
        count = len(self._points)
        if count < 3:
            return 0.0
        times, values = zip(*self._points, strict=True)
        middle_s, mean = math.fsum(times) / count, math.fsum(values) / count
        spread = math.fsum((t - middle_s) ** 2 for t in times)
        if spread == 0.0:
            return 0.0
        slope = math.fsum((t - middle_s) * v for t, v in self._points) / spread
        rest = math.fsum((v - mean - slope * (t - middle_s)) ** 2 for t, v in self._points)
        error = math.sqrt(rest / (count - 2) / spread)
        return max(0.0, slope - _STUDENT.get(count - 2, 2.0) * error)
