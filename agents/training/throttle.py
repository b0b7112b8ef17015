"""What the health loop sees of a training, and what it does to it while it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from agents.base import Agent, Job
from bus.topics import GAUGES, GaugesGiven
from sovl_daemon.control.sources.gauges import Ratio
from sovl_daemon.engine.learning.sample import ThrottleFactors

if TYPE_CHECKING:  # torch is loaded by the generator
    from sovl_daemon.engine.learning.learner import Learner, StepReport


class TrainingPaused(Exception):
    """The training has to stop now; how far it was is on disk."""


class TrainingThrottle:
    """Holds a training back, or makes it gentler; `learner` is what learns now, if anything does.

    `factors` say how gently that is to learn; what is learned later learns so, too.
    """

    def __init__(self, agent: Agent) -> None:
        self.factors = ThrottleFactors()
        self.learner: Learner | None = None
        self._agent = agent
        self._free = anyio.Event()
        self._free.set()
        self._moved = anyio.Event()
        self._ratio = Ratio()

    @property
    def is_held(self) -> bool:
        """Whether nothing may be learned now."""
        return not self._free.is_set()

    def hold(self, hold: bool) -> None:
        """Let nothing be learned, or let it go on."""
        if not hold:
            self._free.set()
            self._moved.set()
        elif self._free.is_set():
            self._free = anyio.Event()

    async def wait_until_free(self, job: Job) -> None:
        """Wait until it is not held, and tell the user that it is."""
        if self.is_held:
            job.progress(text="Paused for want of memory, and goes on later: sovl actions list\n")
            await self._free.wait()

    async def wait_until_stopped(self) -> None:
        """Wait until what learns has stopped for being held, or may go on."""
        while self.is_held and self.learner is not None:
            self._moved = anyio.Event() if self._moved.is_set() else self._moved
            await self._moved.wait()

    def set_factors(self, *, rate: float | None, batch: float | None) -> None:
        """Learn as gently from now on; a factor that is None stays as it is."""
        self.factors = ThrottleFactors(rate or self.factors.rate, batch or self.factors.batch)
        if self.learner is not None:
            self.learner.throttle = self.factors

    def attach(self, learner: Learner) -> Learner:
        """Note what learns now, and let it learn as gently as was asked for."""
        learner.throttle = self.factors
        self.learner, self._ratio = learner, Ratio()
        return learner

    def detach(self) -> None:
        """Note that nothing learns any more."""
        self.learner = None
        self._moved.set()

    async def measured(self, report: StepReport) -> None:
        """Give the gauges of a step."""
        values = {
            "training.loss": report.loss,
            "training.loss_ratio": self._ratio.add(report.loss),
            "training.gradient_norm": report.gradient_norm,
        }
        given = GaugesGiven(time_s=time.monotonic(), values=values)
        await self._agent.publish(f"{GAUGES}.{self._agent.name}", given)
