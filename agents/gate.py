"""The gate before heavy work: a failing self-diagnosis holds it until that passes, or is forced."""

from __future__ import annotations

import anyio

from agents.base import Agent, Job
from bus.errors import CommandError
from bus.topics import HELD, WorkHeld
from sovl_daemon.contracts.health import Diagnose

_LOOK_EVERY_S = 1.0


class Gate:
    """Before one kind of work of an agent."""

    def __init__(self, agent: Agent, work: str) -> None:
        self._agent = agent
        self._work = work
        self._reason = ""

    async def objection(self, needs_mb: float | None = None) -> str:
        """Why the work has to wait, empty if it need not; changes of that are told to everybody."""
        reason = ""
        if self._agent.settings.control.enabled:
            try:
                found = await self._agent.ask(Diagnose(needs_mb=needs_mb))
                reason = "; ".join(found.objections)
            except CommandError as error:
                # Without a health monitor nothing is known that speaks against it.
                self._agent.log.debug("work.unchecked", work=self._work, reason=error.message)
        if bool(reason) != bool(self._reason):
            held = WorkHeld(work=self._work, reason=reason or self._reason, held=bool(reason))
            await self._agent.publish(HELD, held)
            if reason:
                self._agent.log.warning("work.held", work=self._work, reason=reason)
            else:
                self._agent.log.info("work.released", work=self._work, reason=self._reason)
        self._reason = reason
        return reason

    async def passed(self, job: Job, *, force: bool = False, needs_mb: float | None = None) -> None:
        """Wait until the work may begin, and tell the user why it does not; `force` does not."""
        told = False
        while not force and (reason := await self.objection(needs_mb)):
            if not told:
                job.progress(text=f"Held back: {reason}. To begin all the same: force=true\n")
                told = True
            await anyio.sleep(_LOOK_EVERY_S)
