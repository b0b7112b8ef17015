"""Hooks around what every agent does. All default to nothing; policies live here, not in agents."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from bus.commands import AgentStats
from bus.errors import CANCELLED, CommandError

if TYPE_CHECKING:
    from agents.base import Agent, Job


class CommandCounters(AgentStats):
    """What became of an agent's commands."""

    commands: dict[str, int] = Field(description="how many were started, done, cancelled or failed")
    mean_ms: float | None = Field(description="how long one takes, null before the first ended")
    last_error: str = Field(description="the last of them that failed, and why")


class Middleware:
    """Override what you need. A hook that raises fails the agent: keep hooks simple."""

    def state_changed(self, agent: Agent, state: str) -> None:
        """The agent entered a state of its life (see `agents.base.Agent`)."""

    def before_command(self, agent: Agent, job: Job) -> None:
        """A command is about to run."""

    def after_command(
        self, agent: Agent, job: Job, seconds: float, error: CommandError | None
    ) -> None:
        """A command ended; `error` is what its client was told, None on success."""

    def stats(self) -> AgentStats:
        """Give what this middleware adds to the agent's counters."""
        return AgentStats()


class Counters(Middleware):
    """Commands, errors, mean time and last error of an agent: what `sovl stats` shows."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._last_error = ""

    @override
    def before_command(self, agent: Agent, job: Job) -> None:
        self._counts["started"] += 1

    @override
    def after_command(
        self, agent: Agent, job: Job, seconds: float, error: CommandError | None
    ) -> None:
        self._seconds += seconds
        outcome = "done" if error is None else error.code
        self._counts["cancelled" if outcome == CANCELLED else outcome] += 1
        if error is not None and error.code != CANCELLED:
            self._last_error = f"{job.name}: {error.message}"

    @override
    def stats(self) -> CommandCounters:
        ended = sum(self._counts.values()) - self._counts["started"]
        mean_ms = round(1000 * self._seconds / ended, 3) if ended else None
        return CommandCounters(
            commands=dict(self._counts), mean_ms=mean_ms, last_error=self._last_error
        )


class Trace(Middleware):
    """Writes the life of an agent and its commands to the log."""

    @override
    def state_changed(self, agent: Agent, state: str) -> None:
        agent.log.info("agent.state", state=state, detail=agent.detail)

    @override
    def before_command(self, agent: Agent, job: Job) -> None:
        agent.log.debug("command.started", command=job.name)

    @override
    def after_command(
        self, agent: Agent, job: Job, seconds: float, error: CommandError | None
    ) -> None:
        outcome = "done" if error is None else error.code
        ms = round(1000 * seconds, 3)
        agent.log.info("command.ended", command=job.name, outcome=outcome, ms=ms)
