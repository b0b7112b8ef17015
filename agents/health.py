"""The health monitor: samples machine and daemon, and publishes what it sees."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import anyio

from agents.base import Agent
from bus.envelope import Envelope
from bus.topics import HEALTH, AgentState, HealthSample
from sovl_daemon.probes import MachineProbe


class Health(Agent):
    """Publishes a `health.sample` each `health.interval_s` seconds, retained."""

    name: ClassVar[str] = "health"
    topics: ClassVar[tuple[str, ...]] = ("agent.",)

    async def start(self) -> None:
        """Find out what can be read here."""
        self._probe = MachineProbe()
        self._pids = {self.process: os.getpid()}
        self._last: HealthSample | None = None

    async def run(self) -> None:
        """Sample for ever."""
        while True:
            self._last = self._probe.sample(self._pids)
            await self.publish(HEALTH, self._last, retain=True)
            await anyio.sleep(self.settings.health.interval_s)

    async def on_event(self, event: Envelope) -> None:
        """Learn from the agents' states which processes the daemon has."""
        state = event.payload
        if isinstance(state, AgentState) and state.pid not in self._pids.values():
            self._pids[state.process] = state.pid

    def stats(self) -> dict[str, Any]:
        """Report the size of the daemon's processes in MB."""
        if self.state != "ready" or self._last is None:
            return {}
        sizes = {n: round(p.rss / 1e6, 1) for n, p in self._last.processes.items()}
        return {"rss_mb": sizes}
