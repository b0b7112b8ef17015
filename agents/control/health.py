"""The health monitor: samples machine and daemon, and publishes what it sees."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import anyio

from agents.base import Agent, Job
from agents.control.self_diagnosis import SelfDiagnosis
from bus.commands import AgentStats, command
from bus.envelope import Envelope
from bus.errors import FatalError
from bus.topics import (
    ACTION,
    DECISION,
    GAUGES,
    HEALTH,
    METRICS,
    AgentState,
    ControlAction,
    ControlDecision,
    GaugesGiven,
    HealthSample,
    MetricReading,
    MetricsSample,
)
from config import Paths, Settings
from sovl_daemon.contracts.health import Diagnose, HealthReport, HealthStats
from sovl_daemon.control.metric import Metric, Reading
from sovl_daemon.control.metric_sampler import MetricSampler, Readings
from sovl_daemon.control.sources.gauges import Gauges
from sovl_daemon.control.sources.gpu import Gpus
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.control.sources.pressure import Pressure
from sovl_daemon.control.sources.process_tree import ProcessTree
from sovl_daemon.control.task import Task
from sovl_daemon.control.task_file import SHIPPED, TaskError, load_tasks
from sovl_daemon.health_sampler import HealthSampler

_BREATH_S = 0.005  # between two rounds, however long one takes
_UNDONE = ("committed", "reverted")  # what makes a task less stable


class Health(Agent):
    """Publishes `metrics.sample` as often as it is needed, and `health.sample`, both retained.

    Metrics are sampled once a second while all is well, and ten times while a limit is near, memory
    is short, or an action's effect is awaited; `health.interval_s` is for the other, which people
    look at.
    """

    name: ClassVar[str] = "health"
    topics: ClassVar[tuple[str, ...]] = ("agent.", GAUGES, ACTION, DECISION)

    async def start(self) -> None:
        """Find out what can be read here, and what is asked for."""
        self._health_sampler = HealthSampler()
        self._last: HealthSample | None = None
        self._tasks = tasks_of(self.settings, self.paths)
        self._gauges = Gauges()
        self._trees = ProcessTree({self.process: os.getpid()})
        machine = Machine(self.paths.state_dir)
        self._gpus = Gpus()
        sources = (machine, Pressure(), self._gpus, self._trees)
        self._sampler = MetricSampler(self._tasks.values(), sources, self._gauges)
        self._self_diagnosis = SelfDiagnosis(self, self._tasks.values(), self._gauges, machine)
        self._failures: dict[str, str] = {}
        self._interval_s = 1.0
        self._awaited: set[str] = set()  # tasks with an action in flight

    async def run(self) -> None:
        """Sample for ever."""
        told_s = -math.inf
        while True:
            began_s = time.monotonic()
            await self._sample(began_s)
            if began_s >= told_s + self.settings.health.interval_s:
                told_s = began_s
                self._last = self._health_sampler.sample(
                    self._sampler.values, self._gpus.cards, self._trees.roots
                )
                await self.publish(HEALTH, self._last, retain=True)
            # From one round's beginning to the next: what a round takes is not waited for again.
            next_s = min(began_s + self._interval_s, told_s + self.settings.health.interval_s)
            await anyio.sleep(max(_BREATH_S, next_s - time.monotonic()))

    async def on_event(self, event: Envelope) -> None:
        """Learn which processes there are, what other agents count, and what was done."""
        match event.payload:
            case AgentState() as state if state.pid not in self._trees.roots.values():
                self._trees.watch(state.process, state.pid)
            case GaugesGiven() as given:
                for name, value in given.values.items():
                    self._gauges.give(name, value, given.time_s)
            case ControlDecision(task=task, does="act" | "relax"):
                self._awaited.add(task)
            case ControlDecision(task=task, does="done" | "failed"):
                self._awaited.discard(task)
            case ControlAction(result=result, shadow=False) as done if result in _UNDONE:
                self._acted(done.action)

    @command(Diagnose)
    async def diagnose(self, request: Diagnose, job: Job) -> HealthReport:
        """Check memory, tokens, latency and all else that has a limit, and say what is wrong."""
        found = self._self_diagnosis.now(request.needs_mb)
        return HealthReport(
            health=found.health,
            allows_heavy_work=found.allows_heavy_work,
            objections=found.objections(),
            findings=list(found.findings),
        )

    def _acted(self, action: str) -> None:
        """Count an intervention for every task that has it."""
        for task in self._tasks.values():
            if any(rung.action == action for rung in task.ladder):
                self._sampler.acted(task.name, time.monotonic())

    def stats(self) -> AgentStats:
        """Report the size of the daemon's processes in MB, and how often metrics are sampled."""
        if self._last is None:
            return AgentStats()
        known = {n: p.rss for n, p in self._last.processes.items() if p.rss is not None}
        sizes = {name: round(rss / 1e6, 1) for name, rss in known.items()}
        return HealthStats(rss_mb=sizes, interval_s=round(self._interval_s, 3))

    async def _sample(self, now_s: float) -> None:
        found = self._sampler.sample(now_s, time.time())
        self._tell_failures(self._sampler.failures)
        self._interval_s = self._sampler.interval_s(found, verifying=bool(self._awaited))
        tasks = {
            name: sampled(self._tasks[name], readings, now_s) for name, readings in found.items()
        }
        payload = MetricsSample(time_s=now_s, interval_s=self._interval_s, tasks=tasks)
        await self.publish(METRICS, payload, retain=True)
        await self._self_diagnosis.update(found, now_s)

    def _tell_failures(self, failures: dict[str, str]) -> None:
        """Say once that a source cannot be read, and once that it can again."""
        for source in failures.keys() - self._failures.keys():
            self.log.warning("health.source_lost", source=source, reason=failures[source])
        for source in self._failures.keys() - failures.keys():
            self.log.info("health.source_back", source=source)
        self._failures = failures


def tasks_of(settings: Settings, paths: Paths) -> dict[str, Task]:
    """The tasks that are shipped and the user's own. Raises FatalError naming every mistake."""
    try:
        return load_tasks((SHIPPED, tasks_folder(settings, paths)))
    except TaskError as error:
        raise FatalError(f"control.tasks_dir: {'; '.join(str(error).splitlines())}") from None


def tasks_folder(settings: Settings, paths: Paths) -> Path:
    """Where the user's own tasks are."""
    return settings.control.tasks_dir or paths.state_dir / "tasks"


def sampled(task: Task, readings: Readings, now_s: float) -> dict[str, MetricReading]:
    """A task's readings as they are published."""
    metrics = {each.name: each for each in task.metrics}
    return {name: _published(metrics[name], each, now_s) for name, each in readings.items()}


def _published(metric: Metric, reading: Reading, now_s: float) -> MetricReading:
    return MetricReading(
        value=None if reading.fault else reading.value,
        unit=metric.unit,
        low=metric.low,
        high=metric.high,
        per_min=reading.per_min,
        age_s=max(0.0, now_s - reading.time_s),
        fresh_s=metric.fresh_s,
        fault=reading.fault,
    )


def readings_of(sample: MetricsSample) -> Mapping[str, Readings]:
    """The readings of each task as they were checked."""
    return {
        task: {name: _read(name, each, sample.time_s) for name, each in metrics.items()}
        for task, metrics in sample.tasks.items()
    }


def _read(name: str, published: MetricReading, now_s: float) -> Reading:
    value = math.nan if published.value is None else published.value
    fault: Any = published.fault
    return Reading(name, value, now_s - published.age_s, published.per_min, fault)
