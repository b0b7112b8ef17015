"""Scenarios: what happens to a machine in an hour, drawn from a family by a seed.

Memory is in percent of the machine's capacity, times are in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

HOUR_S = 3600.0

Kind = Literal["arrive", "leave", "slope", "drop", "leak", "leak ends"]


class Disturbance(NamedTuple):
    """Something that happens whatever anyone does.

    `arrive`: conversation `number` begins, growing by `amount` a second; `leave`: it ends.
    `slope`: other programs' memory grows by `amount` a second more; `drop`: it falls by `amount`.
    `leak`: from here on `amount` a second is lost; `leak ends`: and is found again.
    """

    time_s: float
    kind: Kind
    number: int = 0
    amount: float = 0.0


class LogLine(NamedTuple):
    """A line of the log, and when it was written."""

    time_s: float
    text: str


@dataclass(frozen=True)
class Scenario:
    """One drawn hour.

    Attributes:
        family: Name of the family.
        seed: What it was drawn by.
        base: What other programs hold all the time.
        weights: What the model's weights take in 16 bits.
        cache: What caches grow to.
        cache_s: Their time constant.
        noise: Standard deviation of the memory sensor.
        events: In the order of time.
        lines: The log, in the order of time: some lines announce what comes, most do not.
        duration_s: Its length.

    """

    family: str
    seed: int
    base: float
    weights: float
    cache: float
    cache_s: float
    noise: float
    events: tuple[Disturbance, ...] = field(repr=False)
    lines: tuple[LogLine, ...] = field(default=(), repr=False)
    duration_s: float = HOUR_S


@dataclass(frozen=True)
class _Family:
    base: tuple[float, float]
    weights: tuple[float, float]
    cache: tuple[float, float]
    draw: Callable[[random.Random], list[Disturbance]]
    cache_s: tuple[float, float] = (20.0, 60.0)
    noise: tuple[float, float] = (0.03, 0.2)


def _conversations(
    rng: random.Random,
    *,
    every_s: float,
    lasting_s: float,
    per_min: float,
    begin_s: float = 0.0,
    end_s: float = HOUR_S,
    first: int = 0,
) -> list[Disturbance]:
    """Poisson arrivals; each grows for an exponential time, five times the mean at most."""
    events, now_s, number = [], begin_s + rng.expovariate(1 / every_s), first
    while now_s < end_s:
        rate = per_min / 60 * rng.uniform(0.5, 1.5)
        leaves_s = now_s + min(5 * lasting_s, rng.expovariate(1 / lasting_s))
        events += [
            Disturbance(now_s, "arrive", number, rate),
            Disturbance(leaves_s, "leave", number),
        ]
        now_s += rng.expovariate(1 / every_s)
        number += 1
    return events


def _burst(
    rng: random.Random,
    at_s: float,
    amount: tuple[float, float],
    ramp_s: tuple[float, float],
    stay_s: tuple[float, float],
) -> list[Disturbance]:
    size, ramp, stay = rng.uniform(*amount), rng.uniform(*ramp_s), rng.uniform(*stay_s)
    rate = size / ramp
    return [
        Disturbance(at_s, "slope", amount=rate),
        Disturbance(at_s + ramp, "slope", amount=-rate),
        Disturbance(at_s + ramp + stay, "drop", amount=size),
    ]


def _bursts(
    rng: random.Random,
    every_s: float,
    amount: tuple[float, float],
    ramp_s: tuple[float, float] = (2.0, 25.0),
    stay_s: tuple[float, float] = (30.0, 300.0),
) -> list[Disturbance]:
    """One after another, never two at once: other programs alone must not fill the machine."""
    events: list[Disturbance] = []
    now_s = rng.expovariate(1 / every_s)
    while now_s < HOUR_S - 400:
        events += _burst(rng, now_s, amount, ramp_s, stay_s)
        now_s = events[-1].time_s + 1 + rng.expovariate(1 / every_s)
    return events


def _quiet(rng: random.Random) -> list[Disturbance]:
    return _conversations(rng, every_s=90, lasting_s=120, per_min=0.8)


def _leak(rng: random.Random) -> list[Disturbance]:
    events, begins_s = _quiet(rng), rng.uniform(60, 900)
    ends_s = begins_s + rng.uniform(900, 2400)
    rate = rng.uniform(0.6, 1.6) / 60
    leak = [Disturbance(begins_s, "leak", amount=rate), Disturbance(ends_s, "leak ends")]
    return events + leak


def _edge(rng: random.Random) -> list[Disturbance]:
    return _conversations(rng, every_s=60, lasting_s=120, per_min=0.6)


def _noise(rng: random.Random) -> list[Disturbance]:
    """Memory moves slowly from one threshold's nearness to another's, under a noisy sensor."""
    events, now_s, level = [], 0.0, 0.0
    while now_s < HOUR_S:
        goal, takes_s = rng.uniform(*_NOISE_RISES), rng.uniform(120, 600)
        slope = (goal - level) / takes_s
        events += [
            Disturbance(now_s, "slope", amount=slope),
            Disturbance(now_s + takes_s, "slope", amount=-slope),
        ]
        now_s, level = now_s + takes_s, goal
    return events


_NOISE_RISES = (0.0, 22.0)


def _tide(rng: random.Random) -> list[Disturbance]:
    """Three waves of conversations, and bursts besides."""
    events = _bursts(rng, 900, (5.0, 20.0))
    for wave in range(3):
        begin_s = wave * 1200 + rng.uniform(0, 200)
        events += _conversations(
            rng,
            every_s=15,
            lasting_s=200,
            per_min=1.2,
            begin_s=begin_s,
            end_s=begin_s + 600,
            first=10_000 * (wave + 1),
        )
    return events


_COMMON = {"base": (22.0, 30.0), "weights": (22.0, 28.0), "cache": (3.0, 6.0)}
_FAMILIES: dict[str, _Family] = {
    "steady": _Family((18.0, 26.0), (20.0, 26.0), (2.0, 5.0), _quiet),
    "kv_growth": _Family(
        draw=lambda rng: _conversations(
            rng, every_s=rng.uniform(25, 45), lasting_s=rng.uniform(240, 420), per_min=1.0
        ),
        **_COMMON,
    ),
    "leak": _Family(draw=_leak, **_COMMON),
    "burst": _Family(
        (36.0, 42.0),
        (24.0, 28.0),
        (3.0, 6.0),
        lambda rng: _quiet(rng) + _bursts(rng, 300, (3.0, 32.0), (1.5, 20.0)),
    ),
    "cache_lag": _Family(
        (22.0, 30.0),
        (24.0, 28.0),
        (8.0, 16.0),
        lambda rng: (
            _conversations(rng, every_s=60, lasting_s=180, per_min=1.0)
            + _bursts(rng, 600, (5.0, 15.0))
        ),
    ),
    "edge": _Family((40.0, 46.0), (24.0, 27.0), (3.0, 5.0), _edge),
    "noise": _Family((36.0, 38.0), (24.0, 26.0), (3.0, 4.0), _noise, noise=(1.0, 2.5)),
    "tide": _Family(draw=_tide, **_COMMON),
    "leak_burst": _Family(draw=lambda rng: _leak(rng) + _bursts(rng, 500, (8.0, 28.0)), **_COMMON),
    # Other programs fill the memory within minutes, stay for minutes, and leave.
    "swell": _Family(
        (34.0, 40.0),
        (24.0, 28.0),
        (3.0, 6.0),
        lambda rng: _quiet(rng) + _bursts(rng, 400, (10.0, 35.0), (60.0, 600.0), (120.0, 600.0)),
    ),
    # Short, steep bursts, one after another.
    "storm": _Family(
        (38.0, 44.0),
        (24.0, 28.0),
        (3.0, 6.0),
        lambda rng: _quiet(rng) + _bursts(rng, 100, (3.0, 30.0), (1.0, 8.0), (10.0, 60.0)),
    ),
}

TRAINING = ("steady", "kv_growth", "leak", "burst", "cache_lag", "edge", "noise", "storm")
"""Families that a judge may be fitted on."""

HELD_OUT = ("tide", "leak_burst", "swell")
"""Families that no judge has seen, and that no rule was tuned on."""

FAMILIES = (*TRAINING, *HELD_OUT)


def draw(family: str, seed: int) -> Scenario:
    """Draw an hour; the same arguments always give the same one.

    Raises:
        ValueError: there is no such family.

    """
    if family not in _FAMILIES:
        raise ValueError(f"{family}: no such family; there are: {', '.join(_FAMILIES)}")
    kind = _FAMILIES[family]
    rng = random.Random(f"{family} {seed}")  # noqa: S311 - a game
    events = sorted(kind.draw(rng), key=lambda event: event.time_s)
    return Scenario(
        family=family,
        seed=seed,
        base=rng.uniform(*kind.base),
        weights=rng.uniform(*kind.weights),
        cache=rng.uniform(*kind.cache),
        cache_s=rng.uniform(*kind.cache_s),
        noise=rng.uniform(*kind.noise),
        events=tuple(events),
        lines=tuple(sorted(_lines(random.Random(f"{family} {seed} log"), events))),  # noqa: S311
    )


# The log

_ANNOUNCED = 0.7
_LEAD_S = (10.0, 45.0)
_JOBS = (
    "batch job import started, expects {size:.1f} GB",
    "container indexer scheduled with {size:.1f} GB",
    "backup of the archive begins, reads {size:.1f} GB into memory",
    "compile of the kernel begins, peak {size:.1f} GB",
)
_OTHERS = (
    "client connected",
    "log file rotated",
    "configuration read, nothing changed",
    "heartbeat of all agents within 40 ms",
)
_GB = 0.16  # one percent of a machine with 16 GB


def _lines(rng: random.Random, events: Sequence[Disturbance]) -> Iterator[LogLine]:
    """Announcements of bursts, most of the time; as many of small jobs; and idle talk."""
    for event, after in pairwise(event for event in events if event.kind == "slope"):
        if event.amount < 0:
            continue
        lead_s = rng.uniform(*_LEAD_S)
        size = event.amount * (after.time_s - event.time_s) * _GB
        if rng.random() < _ANNOUNCED:
            yield LogLine(event.time_s - lead_s, rng.choice(_JOBS).format(size=size))
        decoy_s, small = rng.uniform(0, HOUR_S), rng.uniform(0.05, 0.3)
        yield LogLine(decoy_s, rng.choice(_JOBS).format(size=small))
    now_s = 0.0
    while now_s < HOUR_S:
        now_s += rng.expovariate(1 / 40)
        yield LogLine(now_s, rng.choice(_OTHERS))
