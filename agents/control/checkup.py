"""Self-diagnosis: the part of the health monitor that says what is wrong, and what has to wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from agents.base import Agent, Job
from bus.commands import Arguments, command
from bus.topics import DIAGNOSIS, HealthDiagnosis
from sovl_daemon.control.diagnosis import Diagnosis, Finding, context_use, diagnose, room_for
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.metric_sampler import Readings
from sovl_daemon.control.sources.gauges import Gauges
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.control.task import Task

_EVERY_S = 5.0
_CONTEXT = "tokens.context_percent"


class DiagnoseArguments(Arguments):
    """What the work needs that is about to begin."""

    needs_mb: float | None = Field(
        default=None, ge=0, description="Memory; control.heavy_work_mb when left out."
    )


class Checkup(Agent):
    """Diagnoses every few seconds, and when somebody asks before heavy work."""

    _tasks: Mapping[str, Task]
    _gauges: Gauges
    _machine: Machine
    _found: Mapping[str, Readings] = {}
    _told: HealthDiagnosis | None = None
    _due_s = 0.0

    @command(DiagnoseArguments)
    async def diagnose(self, args: DiagnoseArguments, job: Job) -> dict[str, Any]:
        """Check memory, tokens, latency and all else that has a limit, and say what is wrong."""
        found = self._diagnosis(args.needs_mb)
        return {
            "health": found.health,
            "allows_heavy_work": found.allows_heavy_work,
            "objections": found.objections(),
            "findings": [each._asdict() for each in found.findings],
        }

    async def check_up(self, found: Mapping[str, Readings], now_s: float) -> None:
        """Take new readings; every few seconds tell of what has changed."""
        self._found = found
        if now_s < self._due_s:
            return
        self._due_s = now_s + _EVERY_S
        diagnosis = self._diagnosis(None)
        before = self._told
        self._told = HealthDiagnosis(
            health=diagnosis.health,
            anomalies=tuple(diagnosis.anomalies()),
            objections=tuple(diagnosis.objections()),
        )
        if self._told != before:
            await self.publish(DIAGNOSIS, self._told, retain=True)
        if before is None or self._told.health != before.health:
            self._log(diagnosis)

    def _log(self, diagnosis: Diagnosis) -> None:
        says = "; ".join(diagnosis.anomalies()) or "nothing is wrong"
        if diagnosis.allows_heavy_work:
            self.log.info("health.diagnosed", health=diagnosis.health, says=says)
        else:
            self.log.warning("health.diagnosed", health=diagnosis.health, says=says)

    def _diagnosis(self, needs_mb: float | None) -> Diagnosis:
        needed = self.settings.control.heavy_work_mb if needs_mb is None else needs_mb
        others = [room_for(self._machine.memory()["memory.available_bytes"], 1e6 * needed)]
        if (context := self._context()) is not None:
            others.append(context)
        readings = {
            name: reading
            for each in self._found.values()
            for name, reading in each.items()
            if not self._is_over(reading)
        }
        return diagnose(self._tasks.values(), readings, others if self._found else ())

    def _context(self) -> Finding | None:
        value = self._gauges.read().get(_CONTEXT)
        return None if value is None else context_use(value)

    def _is_over(self, reading: Reading) -> bool:
        """Whether it is a gauge that nobody gives any more, such as the loss after a night."""
        given = self._gauges.taken_s(reading.name) > -math.inf
        return given and reading.fault in ("stale", "missing")
