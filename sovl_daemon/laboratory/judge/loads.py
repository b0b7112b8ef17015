"""How a load goes on over some minutes: families of scenarios, some of which no probe is fitted on.

A load of 1 is about what a system bears for ever.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

Load = Callable[[int], float]

LENGTH_S = 360
"""How long a scenario is."""


def _steady(rng: random.Random) -> Load:
    level = rng.uniform(0.6, 0.93)
    return lambda second: level


def _ramp(rng: random.Random) -> Load:
    low, high = rng.uniform(0.6, 0.85), rng.uniform(0.85, 1.6)
    begin, length = rng.uniform(20, 150), rng.uniform(30, 180)
    return lambda second: low + (high - low) * min(1.0, max(0.0, (second - begin) / length))


def _burst(rng: random.Random) -> Load:
    low, high = rng.uniform(0.6, 0.85), rng.uniform(1.05, 1.7)
    begin, length = rng.uniform(40, 200), rng.uniform(8, 70)
    return lambda second: high if begin <= second < begin + length else low


def _recovery(rng: random.Random) -> Load:
    high, low, end = rng.uniform(1.0, 1.3), rng.uniform(0.4, 0.8), rng.uniform(15, 120)
    return lambda second: high if second < end else low


def _edge(rng: random.Random) -> Load:
    level, swing = rng.uniform(0.86, 1.06), rng.uniform(0.05, 0.2)
    values, now = [], 0.0
    for _ in range(LENGTH_S + 121):
        now += -0.05 * now + rng.gauss(0.0, 0.3 * swing)
        values.append(level + now)
    return lambda second: values[second]


def _wave(rng: random.Random) -> Load:
    level, swing = rng.uniform(0.8, 1.0), rng.uniform(0.15, 0.5)
    period, begin = rng.uniform(60, 240), rng.uniform(0, 6.3)
    return lambda second: level + swing * math.sin(begin + 2 * math.pi * second / period)


def _stairs(rng: random.Random) -> Load:
    steps, length = [rng.uniform(0.55, 1.35) for _ in range(40)], rng.uniform(20, 60)
    return lambda second: steps[int(second / length) % len(steps)]


FAMILIES: dict[str, Callable[[random.Random], Load]] = {
    "steady": _steady,
    "ramp": _ramp,
    "burst": _burst,
    "recovery": _recovery,
    "edge": _edge,
    "wave": _wave,
    "stairs": _stairs,
}
SEEN = ("steady", "ramp", "burst", "recovery", "edge")
"""Families that a probe may be fitted on."""

HELD_OUT = ("wave", "stairs")
"""Families that only scores are made of."""
