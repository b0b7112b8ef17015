"""One round of sampling: every source is read, each reading checked by its task's rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sovl_daemon.control.guard import Limit
from sovl_daemon.control.metric import Clock, Inspector, Metric, Reading
from sovl_daemon.control.sources.gauges import Gauges
from sovl_daemon.control.sources.source import MetricSource
from sovl_daemon.control.stability import StabilityScore
from sovl_daemon.control.task import Task

CALM_S = 1.0
URGENT_S = 0.1
EDGE_S = 0.03
"""Where a hard limit may be crossed before the next sample, or its duration runs."""

FASTEST = 0.1
"""The share of a scale that a metric may gain in a second when things go wrong."""

STALLED = 10.0
"""Share of time, in percent, that tasks wait for memory, from which on each sample counts."""

STABILITY = "stability.score"
PRESSURE = "pressure.memory"
_PRESSING = FASTEST * URGENT_S  # the room of what is to be looked at at the urgent pace
_LOOKS = 10  # in a hard limit's duration: more often would cost, and show nothing sooner
_MARGIN_S = 0.001  # so that a duration is surely over at its end
_WAYS = 4.0  # a scale is at most so many times the way from low to the hard limit

Readings = Mapping[str, Reading]


class MetricSampler:
    """Reads sources and gauges for some tasks, and knows when to look again.

    A metric that was never there, such as a GPU's on a machine without one, is left out; one that
    was and is no more is a reading with a fault.
    """

    def __init__(
        self, tasks: Iterable[Task], sources: Sequence[MetricSource], gauges: Gauges
    ) -> None:
        self._tasks = tuple(tasks)
        self._sources = sources
        self._gauges = gauges
        self._clock = Clock()
        self._inspectors = {
            task.name: [Inspector(metric) for metric in task.metrics] for task in self._tasks
        }
        self._scores = {task.name: StabilityScore(task.metrics) for task in self._tasks}
        self._known: set[str] = {STABILITY}
        self._beyond_s: dict[tuple[str, Limit], float] = {}  # since when a hard limit is crossed
        self._sampled_s = -math.inf
        self.values: dict[str, float | None] = {}
        """What was read last, as the sources and agents gave it."""
        self.failures: dict[str, str] = {}
        """Why a source could not be read last, by its name."""

    def sample(self, now_s: float, wall_s: float) -> dict[str, Readings]:
        """Read everything once and return the readings of each task, by the task's name.

        `now_s` is on the monotonic clock, `wall_s` seconds since the epoch. After a jump of the
        wall clock, or a sleep of the machine, this round says so and the next begins anew.
        """
        values = self.values = self._read()
        self._known.update(name for name, value in values.items() if value is not None)
        jumped = self._clock.jump_s(now_s, wall_s) != 0.0
        found = {name: self._check(name, values, now_s, jumped) for name in self._inspectors}
        self._sampled_s = now_s
        crossed = (
            (task.name, limit)
            for task in self._tasks
            for limit in task.limits
            if (reading := found[task.name].get(limit.metric)) is not None
            and not reading.fault
            and limit.is_beyond(reading.value)
        )
        self._beyond_s = {each: self._beyond_s.get(each, now_s) for each in crossed}
        return found

    def _read(self) -> dict[str, float | None]:
        """All values. A source that fails gives none, and is tried again each time."""
        values: dict[str, float | None] = {}
        failures = {}
        for source in self._sources:
            try:
                values.update(source.read())
            except Exception as error:  # whatever a machine may come up with, the others count
                failures[type(source).__name__] = f"{type(error).__name__}: {error}"
        self.failures = failures
        return {**values, **self._gauges.read()}

    def acted(self, task: str, now_s: float) -> None:
        """Count an intervention; a task is less stable for it."""
        self._scores[task].acted(now_s)

    def interval_s(self, readings: Mapping[str, Readings], *, verifying: bool = False) -> float:
        """From this round to the next, in seconds; not past the end of a hard limit's duration."""
        rooms = [self._headroom(task, readings[task.name]) for task in self._tasks]
        stalls = (each[PRESSURE] for each in readings.values() if PRESSURE in each)
        stalled = max((each.value for each in stalls if not each.fault), default=0.0)
        room = min(rooms, default=1.0)
        interval_s = sampling_interval_s(room, stalled, verifying=verifying, edge_s=EDGE_S)
        ends = [self._left_s(*each) for each in self._beyond_s]
        return min([interval_s, *(left_s + _MARGIN_S for left_s in ends if left_s > 0)])

    def _headroom(self, task: Task, readings: Readings) -> float:
        """The smallest distance to a hard limit, as a share of the scale.

        Small for a broken sensor, and where a limit was crossed for its whole duration: what there
        was to do is being done. What nobody gives any more, such as the loss after a night, is no
        reason to look more often; nor is a limit whose duration is long more often than ten times
        in that.
        """
        metrics = {metric.name: metric for metric in task.metrics}
        rooms = [
            max(
                FASTEST * limit.hard_s / _LOOKS,
                _room(metrics[limit.metric], limit, limit.hard, reading)
                if self._left_s(task.name, limit) > 0
                else _PRESSING,
            )
            for limit in task.limits
            if limit.hard is not None
            and (reading := readings.get(limit.metric)) is not None
            and reading.fault not in ("stale", "missing")
        ]
        return min(rooms, default=1.0)

    def _left_s(self, task: str, limit: Limit) -> float:
        """How long a hard limit must still be crossed; infinity if it is not."""
        return self._beyond_s.get((task, limit), math.inf) + limit.hard_s - self._sampled_s

    def _check(
        self, task: str, values: Mapping[str, float | None], now_s: float, jumped: bool
    ) -> Readings:
        found = {}
        for inspector in self._inspectors[task]:
            name = inspector.metric.name
            if name not in self._known:
                continue
            if jumped:
                inspector.jumped()
                found[name] = Reading(name, math.nan, now_s, 0.0, "clock jump")
            elif name == STABILITY:
                found[name] = inspector.check(self._scores[task].value(now_s), now_s, now_s)
            else:
                given_s = self._gauges.taken_s(name)  # a source's value is of now
                taken_s = now_s if given_s == -math.inf else given_s
                found[name] = inspector.check(values.get(name), taken_s, now_s)
        self._scores[task].add(now_s, [each for each in found.values() if each.name != STABILITY])
        return found


def sampling_interval_s(
    headroom: float,
    stalled: float = 0.0,
    *,
    verifying: bool = False,
    edge_s: float = URGENT_S,
) -> float:
    """Return how long to wait for the next sample, between `edge_s` and a second.

    So long as a metric growing at the fastest could not cross its hard limit in between, as in
    earlyoom; a tenth of a second at most while tasks stall or an action's effect is awaited.

    Args:
        headroom: Smallest distance of a metric to its hard limit, as a share of its scale.
        stalled: PSI memory `some avg10`, in percent; 0 where the kernel does not tell.
        verifying: An action was just done and its effect is measured.
        edge_s: The shortest interval.

    """
    longest_s = URGENT_S if verifying or stalled >= STALLED else CALM_S
    return min(longest_s, max(edge_s, headroom / FASTEST))


def _room(metric: Metric, limit: Limit, hard: float, reading: Reading) -> float:
    if reading.fault:
        return _PRESSING
    if (reading.value < hard) is not limit.high_is_bad:
        return 0.0
    calm = limit.grey if limit.low is None else limit.low
    # A range may only say that there is no bound.
    scale = metric.span if calm is None else min(metric.span, _WAYS * abs(hard - calm))
    return abs(hard - reading.value) / scale
