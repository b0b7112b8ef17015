"""The reins of a training: what holds it back, or makes it gentler, while it goes on."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import anyio

from agents.base import Job
from agents.training.archive import Archive
from bus.commands import command
from bus.topics import GAUGES, GaugesGiven
from sovl_daemon.contracts.trainer import (
    EaseFactors,
    EaseTraining,
    HoldTraining,
    TrainingEase,
    TrainingHold,
)
from sovl_daemon.control.sources.gauges import Ratio
from sovl_daemon.engine.learning.sample import ThrottleFactors

if TYPE_CHECKING:  # torch is loaded by the generator
    from sovl_daemon.engine.learning.learner import Learner, StepReport


class Held(Exception):
    """The training has to stop now; how far it was is on disk."""


class Reins(Archive):
    """The part of the trainer that others may pull at."""

    async def start(self) -> None:
        """Open the archive, and hold nothing."""
        await super().start()
        self._free = anyio.Event()
        self._free.set()
        self._ease = ThrottleFactors()
        self._learner: Learner | None = None
        self._ratio = Ratio()

    @command(HoldTraining, internal=True)
    async def hold_training(self, request: HoldTraining, job: Job) -> TrainingHold:
        """Stop a training at its next step, where it goes on when it is let go; begin none."""
        if request.hold is True and self._free.is_set():
            self._free = anyio.Event()
        elif request.hold is False:
            self._free.set()
        return TrainingHold(held=self.is_held, training=self._learner is not None)

    @command(EaseTraining, internal=True)
    async def ease_training(self, request: EaseTraining, job: Job) -> TrainingEase:
        """Learn more gently from now on, or as configured again; or show how gently it learns."""
        self._ease = replace(self._ease, **request.model_dump(exclude_none=True))
        ease, learner = EaseFactors(**asdict(self._ease)), self._learner
        if learner is None:
            return TrainingEase(ease=ease, eased=None, rows=0)
        learner.throttle = self._ease
        eased = EaseFactors(**asdict(learner.throttled))
        return TrainingEase(ease=ease, eased=eased, rows=learner.rows)

    def stats(self) -> dict[str, Any]:
        """How gently it is to learn."""
        return asdict(self._ease)

    @property
    def is_held(self) -> bool:
        """Whether nothing may be learned now."""
        return not self._free.is_set()

    def taken_up(self, learner: Learner) -> Learner:
        """Note what learns now, and let it learn as gently as was asked for."""
        learner.throttle = self._ease
        self._learner, self._ratio = learner, Ratio()
        return learner

    def put_down(self) -> None:
        """Note that nothing learns any more."""
        self._learner = None

    async def let_go(self, job: Job) -> None:
        """Wait until it is not held, and tell the user that it is."""
        if self.is_held:
            job.progress(text="Paused for want of memory, and goes on later: sovl actions list\n")
            await self._free.wait()

    async def measured(self, report: StepReport) -> None:
        """Give the gauges of a step."""
        values = {
            "training.loss": report.loss,
            "training.loss_ratio": self._ratio.add(report.loss),
            "training.gradient_norm": report.gradient_norm,
        }
        given = GaugesGiven(time_s=time.monotonic(), values=values)
        await self.publish(f"{GAUGES}.{self.name}", given)
