"""Self-diagnosis: what is wrong, and what has to wait for that."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from agents.base import Agent
from bus.topics import DIAGNOSIS, HealthDiagnosis
from sovl_daemon.control.diagnosis import Diagnosis, context_use, diagnose, room_for
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.metric_sampler import Readings
from sovl_daemon.control.sources.gauges import Gauges
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.control.task import Task

_EVERY_S = 5.0
_CONTEXT = "tokens.context_percent"


class SelfDiagnosis:
    """The last readings, and what is to be said about them. `agent` publishes what changes."""

    def __init__(
        self, agent: Agent, tasks: Collection[Task], gauges: Gauges, machine: Machine
    ) -> None:
        self._agent = agent
        self._tasks = tasks
        self._gauges = gauges
        self._machine = machine
        self._found: Mapping[str, Readings] = {}
        self._told: HealthDiagnosis | None = None
        self._due_s = 0.0

    def now(self, needs_mb: float | None = None) -> Diagnosis:
        """What is wrong now, also for work that needs so much memory."""
        control = self._agent.settings.control
        needed = control.heavy_work_mb if needs_mb is None else needs_mb
        others = [room_for(self._machine.memory()["memory.available_bytes"], 1e6 * needed)]
        if (context := self._gauges.read().get(_CONTEXT)) is not None:
            others.append(context_use(context))
        readings = {
            name: reading
            for each in self._found.values()
            for name, reading in each.items()
            if not self._is_over(reading)
        }
        return diagnose(self._tasks, readings, others if self._found else ())

    async def update(self, found: Mapping[str, Readings], now_s: float) -> None:
        """Take new readings; every few seconds tell of what has changed."""
        self._found = found
        if now_s < self._due_s:
            return
        self._due_s = now_s + _EVERY_S
        diagnosis = self.now()
        before = self._told
        self._told = HealthDiagnosis(
            health=diagnosis.health,
            anomalies=tuple(diagnosis.anomalies()),
            objections=tuple(diagnosis.objections()),
        )
        if self._told != before:
            await self._agent.publish(DIAGNOSIS, self._told, retain=True)
        if before is None or self._told.health != before.health:
            says = "; ".join(diagnosis.anomalies()) or "nothing is wrong"
            if diagnosis.allows_heavy_work:
                self._agent.log.info("health.diagnosed", health=diagnosis.health, says=says)
            else:
                self._agent.log.warning("health.diagnosed", health=diagnosis.health, says=says)

    def _is_over(self, reading: Reading) -> bool:
        """Whether it is a gauge that nobody gives any more, such as the loss after a night."""
        given = self._gauges.taken_s(reading.name) > -math.inf
        return given and reading.fault in ("stale", "missing")
