"""Which action of a ladder to take, and how surely it is enough."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.task import Rung, Task

AHEAD_S = 60.0
"""An action is enough if it keeps every metric out of its hard limit for so long."""

_ENOUGH = 0.5
_DOUBT = 0.25  # of the change that is forecast: trends bend
_NOISE = 0.05  # of the grey zone


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An action, the probability that it is enough, and why; without an action there is none."""

    action: str = ""
    sure: float = 0.0
    why: str = ""


class _Need(NamedTuple):
    """By how much a metric is to fall so that it stays out of its limit, and how uncertain it is.

    Both are in the metric's unit, and positive towards its limit.
    """

    metric: str
    excess: float
    doubt: float


def recommend(
    task: Task, readings: Mapping[str, Reading], taken: Collection[str] = ()
) -> Recommendation:
    """The cheapest action that is probably enough, or else the one that most probably is.

    Each metric with a hard limit is forecast for a minute at its present trend. The forecast is
    off by a quarter of the change and a twentieth of the grey zone (logistic), so the probability
    that a relief r suffices for an excess e is 1 / (1 + exp((e - r) / doubt)); an action must
    suffice for every metric. `taken` are actions in force or out of reach. Where no metric
    threatens, as when a line of the log decided, the cheapest is recommended, and how sure it is
    cannot be said from numbers: one half.
    """
    free = [rung for rung in task.ladder if rung.action not in taken]
    if not free:
        return Recommendation()
    needs = [need for need in _needs(task, readings) if need.excess > 0]
    if not needs:
        return Recommendation(free[0].action, 0.5, "no metric threatens, so it is the cheapest")
    rated = [(_probability(rung, needs), rung) for rung in free]
    sure, rung = next(
        (each for each in rated if each[0] >= _ENOUGH), max(rated, key=lambda each: each[0])
    )
    worst = max(needs, key=lambda need: need.excess - rung.relief.get(need.metric, 0.0))
    lowers, exceeds = rung.relief.get(worst.metric, 0.0), worst.excess
    why = f"it lowers {worst.metric} by {lowers:.3g}, which will be {exceeds:.3g} too far"
    return Recommendation(rung.action, sure, why)


def _needs(task: Task, readings: Mapping[str, Reading]) -> Iterator[_Need]:
    for limit in task.limits:
        reading = readings.get(limit.metric)
        if reading is None or reading.fault or limit.hard is None:
            continue
        change = reading.per_min * AHEAD_S / 60.0
        grey = limit.grey if limit.grey is not None else limit.hard
        zone = abs(limit.hard - grey) or abs(limit.hard)
        doubt = max(_DOUBT * abs(change) + _NOISE * zone, 1e-9)
        yield _Need(limit.metric, limit.sign * (reading.value + change - limit.hard), doubt)


def _probability(rung: Rung, needs: list[_Need]) -> float:
    """The probability that it is enough for the metric that it helps least."""
    spare = min((rung.relief.get(n.metric, 0.0) - n.excess) / n.doubt for n in needs)
    return (1.0 + math.tanh(spare / 2.0)) / 2.0
