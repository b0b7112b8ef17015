"""Actuators on what is learned: it stops, begins later, learns gently, or in small batches."""

from __future__ import annotations

import math
from typing import ClassVar

from agents.actuator import Actuator
from sovl_daemon.contracts.generator import Reclaim
from sovl_daemon.contracts.gestation import HoldNights, NightHold
from sovl_daemon.contracts.trainer import EaseTraining, TrainingEase
from sovl_daemon.control.action import Effect


class PauseTraining(Actuator):
    """Stops a night or a training at its next step, where it goes on later; lets none begin."""

    name = "pause_training"
    agent = "gestation"
    target = "held"
    within_s = 30.0

    async def refuse(self) -> str | None:
        """Refuse where nothing trains."""
        return None if await self.measure() else "nothing trains"

    async def predict(self) -> Effect:
        """One training less."""
        return Effect(1.0, "trainings", within_s=self.within_s)

    async def measure(self) -> float:
        """How many nights or trainings there are now: one or none."""
        return float((await self.means.ask(HoldNights())).busy)

    async def current(self) -> str:
        """Whether they are held back."""
        return "held" if (await self.means.ask(HoldNights())).held else "free"

    async def apply(self) -> None:
        """Hold them back, and when the last step is over give what is free back to the system."""
        await self.means.ask(HoldNights(hold=True), within_s=2 * self.within_s)
        await self.means.ask(Reclaim(prefixes=False))

    async def revert(self, before: str) -> None:
        """Let them come."""
        await self.means.ask(HoldNights(hold=before == "held"))


class LaterNights(Actuator):
    """Lets more be lived through before a night begins by itself: as much as the key allows."""

    name = "later_nights"
    agent = "gestation"
    key = "controls_config.sleep_log_min"
    target = "20"

    async def refuse(self) -> str | None:
        """Refuse where no night is near."""
        if not (await self._nights()).entries:
            return "nothing was lived through that a night could learn"
        if int(await self.current()) >= int(self.target):
            return f"a night waits for {await self.current()} interactions already"
        return "it sleeps already" if (await self._nights()).asleep else None

    async def predict(self) -> Effect:
        """As much less is each."""
        return Effect(await self.measure() - 1 / int(self.target), "of a night's need")

    async def measure(self) -> float:
        """How much of what a night waits for one interaction is."""
        return 1 / int(await self.current())

    async def current(self) -> str:
        """How many interactions a night waits for."""
        return str((await self._nights()).entries_needed)

    async def _nights(self) -> NightHold:
        return await self.means.ask(HoldNights())


class Eased(Actuator):
    """Base of actuators that ease a training that goes on: they set one factor, `setting`.

    What is set is one thing, what the training was last done with another: that is measured.
    """

    agent = "trainer"
    target = "0.5"
    within_s = 60.0
    setting: ClassVar[str]
    unit: ClassVar[str]

    async def refuse(self) -> str | None:
        """Refuse where nothing trains."""
        return "nothing trains" if (await self._ease()).eased is None else None

    async def predict(self) -> Effect:
        """As much less as is set."""
        return Effect(await self.measure() - float(self.target), self.unit, self.within_s)

    async def measure(self) -> float:
        """The factor that was really learned with last."""
        eased = (await self._ease()).eased
        return 1.0 if eased is None else float(getattr(eased, self.setting))

    async def current(self) -> str:
        """The factor that is set."""
        return f"{getattr((await self._ease()).ease, self.setting):g}"

    async def apply(self) -> None:
        """Halve it."""
        await self._ease(float(self.target))

    async def revert(self, before: str) -> None:
        """Set it as it was."""
        await self._ease(float(before))

    async def _ease(self, factor: float | None = None) -> TrainingEase:
        given = {} if factor is None else {self.setting: factor}
        return await self.means.ask(EaseTraining(**given))


class LowerLearningRate(Eased):
    """Lets a training that goes on learn half as fast, from its next update on."""

    name = "lower_learning_rate"
    setting = "rate"
    unit = "of the rate"


class SmallerBatches(Eased):
    """Lets a training that goes on compute each micro-batch in two halves, from the next one on.

    What is learned is the same: the gradients of both are summed as the loss weighs them. Only one
    half at a time is in memory.
    """

    name = "smaller_batches"
    setting = "batch"
    unit = "of a micro-batch"

    async def refuse(self) -> str | None:
        """Refuse where nothing trains, or nothing can be halved."""
        if refusal := await super().refuse():
            return refusal
        rows = await self._rows()
        return None if rows > 1 else f"a micro-batch of {rows} rows cannot be halved"

    async def predict(self) -> Effect:
        """What the larger half of the largest micro-batch leaves out."""
        rows = await self._rows()
        left = math.ceil(rows * float(self.target)) / rows
        return Effect(await self.measure() - left, self.unit, self.within_s)

    async def verify(self) -> str | None:
        """Give back what whole micro-batches took, once they are over."""
        await self.means.ask(Reclaim(prefixes=False))
        return None

    async def _rows(self) -> int:
        return (await self._ease()).rows
