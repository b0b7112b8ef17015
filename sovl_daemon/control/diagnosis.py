"""A self-diagnosis: what all tasks' readings say together, and whether heavy work may begin.

Heavy work is training, dreaming, and holding the weights in more bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sovl_daemon.control.guard import Limit
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.prompt import describe, quantity
from sovl_daemon.control.task import Described, Task

Health = Literal["fit", "strained", "unfit", "unknown"]

_AVAILABLE = "memory.available_bytes"
_FULL_CONTEXT = 95.0
_ORDER: tuple[Health, ...] = ("unfit", "strained", "unknown", "fit")


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric that has a limit. `says` is a sentence without its full stop."""

    task: str
    metric: str
    health: Health
    says: str


class Diagnosis(NamedTuple):
    """All findings, and the worst of them."""

    health: Health
    findings: tuple[Finding, ...]

    @property
    def allows_heavy_work(self) -> bool:
        """Whether heavy work may begin: nothing is beyond a hard limit, or broken."""
        return self.health in ("fit", "strained")

    def anomalies(self) -> list[str]:
        """What is not as it should be."""
        return [finding.says for finding in self.findings if finding.health != "fit"]

    def objections(self) -> list[str]:
        """Why heavy work has to wait; empty if it need not."""
        bad = [each.says for each in self.findings if each.health in ("unfit", "unknown")]
        return bad or ([] if self.findings else ["nothing was measured yet"])


def diagnose(
    tasks: Iterable[Task], readings: Mapping[str, Reading], others: Iterable[Finding] = ()
) -> Diagnosis:
    """Check every metric that has a limit, and add what `others` found.

    Strained is the grey zone, unfit beyond the hard limit, unknown a reading with a fault. A metric
    that nobody reads here, such as a GPU's on a machine without one, is left out.
    """
    findings = tuple(
        _finding(task, described, limit, readings[limit.metric])
        for task in tasks
        for limit in task.limits
        for described in task.metrics
        if described.name == limit.metric and limit.metric in readings
    ) + tuple(others)
    found = {each.health for each in findings} or {"unknown"}
    worst = next(health for health in _ORDER if health in found)
    return Diagnosis(worst, findings)


def room_for(available: float | None, needed: float) -> Finding:
    """Whether so many bytes are free; None for what cannot be read."""
    if available is None:
        return Finding("memory", _AVAILABLE, "unknown", "Memory available cannot be read")
    says = f"Memory available is {quantity(available, 'bytes')}"
    if available >= needed:
        return Finding("memory", _AVAILABLE, "fit", says)
    wanted = quantity(needed, "bytes")
    return Finding("memory", _AVAILABLE, "unfit", f"{says}, and heavy work needs {wanted}")


def context_use(percent: float) -> Finding:
    """How much of the context the last answer and its prompt took: the token consumption."""
    says = f"Context in use is {quantity(percent, '%')}"
    if percent < _FULL_CONTEXT:
        return Finding("latency", "tokens.context_percent", "fit", says)
    return Finding(
        "latency", "tokens.context_percent", "strained", f"{says}: older turns are left out"
    )


def _finding(task: Task, described: Described, limit: Limit, reading: Reading) -> Finding:
    fault = reading.fault
    says = f"cannot be read: {fault}" if fault else f"is {describe(described, reading)}"
    health: Health = "fit"
    if fault:
        health = "unknown"
    elif limit.is_beyond(reading.value):
        health = "unfit"
    elif limit.grey is not None and limit.sign * reading.value >= limit.sign * limit.grey:
        health = "strained"
    if health != "fit" and not limit.holds_work:
        health = "strained"
    return Finding(task.name, limit.metric, health, f"{described.label} {says}")
