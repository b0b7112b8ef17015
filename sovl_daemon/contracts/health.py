"""What the health monitor is asked: whether all is well enough for heavy work."""

from __future__ import annotations

from pydantic import Field

from bus.commands import AgentStats, Reply, Request
from sovl_daemon.control.diagnosis import Finding, Health


class HealthReport(Reply):
    """What is wrong, and whether heavy work may begin."""

    health: Health = Field(
        description="`fit`, `strained` (in a grey zone), `unfit` (beyond a hard limit) or `unknown`"
    )
    allows_heavy_work: bool = Field(description="whether training, dreaming or more bits may begin")
    objections: list[str] = Field(description="if not, why")
    findings: list[Finding] = Field(description="all that was looked at")


class Diagnose(Request[HealthReport], command="diagnose"):
    """What the work needs that is about to begin."""

    needs_mb: float | None = Field(
        default=None, ge=0, description="Memory; control.heavy_work_mb when left out."
    )


class HealthStats(AgentStats):
    """How large the processes are, and how often metrics are sampled."""

    rss_mb: dict[str, float] = Field(description="resident memory of each process, in MB")
    interval_s: float = Field(description="seconds between two samples")
