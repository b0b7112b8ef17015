"""The trainer: learns by night what was lived by day, and from pairs when it is told to."""

from __future__ import annotations

from dataclasses import asdict
from typing import ClassVar

import anyio

from agents.base import Agent, Job
from agents.gate import Gate
from agents.shared_engine import shared_engine
from agents.training.checkpoints import Checkpoints
from agents.training.night import NightLearning
from agents.training.pairs import PairTraining
from agents.training.throttle import TrainingPaused, TrainingThrottle
from bus.commands import command
from bus.envelope import Envelope
from bus.errors import BUSY, CommandError
from bus.topics import MIND, MindState
from config import Paths, Settings
from sovl_daemon.contracts.trainer import (
    EaseFactors,
    EaseTraining,
    HoldTraining,
    LearnNight,
    LoadState,
    NightLearned,
    ResetState,
    SaveState,
    StateLoaded,
    StateReset,
    StateSaved,
    TrainedOnPairs,
    TrainerStats,
    TrainingEase,
    TrainingHold,
    TrainOnPairs,
)


class Trainer(Agent):
    """Trains a candidate beside what answers, and keeps it only if it passes an exam."""

    name: ClassVar[str] = "trainer"
    home: ClassVar[str] = "host"
    topics: ClassVar[tuple[str, ...]] = (MIND,)

    def __init__(self, settings: Settings, paths: Paths, process: str) -> None:
        super().__init__(settings, paths, process)
        self._mind: MindState | None = None
        self._training = anyio.Lock()
        self._gate = Gate(self, "training")
        self._checkpoints = Checkpoints(self)
        self._throttle = TrainingThrottle(self)
        self._night = NightLearning(self, self._checkpoints, self._throttle)
        self._pairs = PairTraining(self, self._checkpoints, self._throttle)

    async def start(self) -> None:
        """Become the one that writes what was learned."""
        await self._checkpoints.open()

    async def run(self) -> None:
        """Become what was last committed, as soon as there is an engine."""
        async with self._checkpoints.changing:  # until it knows what was learned, it learns nothing
            await shared_engine.fused()
            await self._checkpoints.restore()

    async def stop(self) -> None:
        """Let another one write."""
        self._checkpoints.close()

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind."""
        if isinstance(event.payload, MindState):
            self._mind = event.payload

    async def on_settings(self, before: Settings) -> None:
        """Keep as many generations as configured."""
        self._checkpoints.keep(self.settings.state.keep)

    async def try_to_write(self) -> None:
        """Try to write to the state directory, and note what was learned if that is to be done."""
        await super().try_to_write()
        await self._checkpoints.note_learned()

    def stats(self) -> TrainerStats:
        """How gently it is to learn."""
        factors = self._throttle.factors
        return TrainerStats(rate=factors.rate, batch=factors.batch)

    # Learning

    @command(TrainOnPairs, long=True)
    async def train(self, request: TrainOnPairs, job: Job) -> TrainedOnPairs:
        """Train on pairs of prompts and responses; cut off, it goes on with the epoch it was in."""
        dry = request.dry_run or self._checkpoints.is_dry
        self._checkpoints.require_fit()
        await self._gate.passed(job, force=request.force)
        if self._training.locked():
            raise CommandError(BUSY, "it is learning already: wait, or cancel that")
        async with self._training, self._checkpoints.changing:
            while True:
                await self._throttle.wait_until_free(job)
                try:
                    return await self._pairs.train(request, job, stage=self._stage, dry=dry)
                except TrainingPaused:
                    request = request.model_copy(update={"fresh": False})
                finally:
                    self._throttle.detach()

    @command(LearnNight, internal=True, long=True)
    async def learn_night(self, request: LearnNight, job: Job) -> NightLearned:
        """Learn what no night has learned yet; cut off, it goes on where it was next time."""
        async with self._training, self._checkpoints.changing:
            try:
                return await self._night.learn(job, seconds=request.seconds, stage=self._stage)
            finally:
                self._throttle.detach()

    @command(HoldTraining, internal=True)
    async def hold_training(self, request: HoldTraining, job: Job) -> TrainingHold:
        """Stop a training at its next step, where it goes on when it is let go; begin none."""
        if request.hold is not None:
            self._throttle.hold(request.hold)
            await self._throttle.wait_until_stopped()
        learner = self._throttle.learner
        return TrainingHold(held=self._throttle.is_held, training=learner is not None)

    @command(EaseTraining, internal=True)
    async def ease_training(self, request: EaseTraining, job: Job) -> TrainingEase:
        """Learn more gently from now on, or as configured again; or show how gently it learns."""
        self._throttle.set_factors(rate=request.rate, batch=request.batch)
        learner = self._throttle.learner
        return TrainingEase(
            ease=EaseFactors(**asdict(self._throttle.factors)),
            eased=EaseFactors(**asdict(learner.throttled)) if learner else None,
            rows=learner.rows if learner else 0,
        )

    # What was learned

    @command(SaveState, long=True)
    async def save(self, request: SaveState, job: Job) -> StateSaved:
        """Keep what was learned under a name; without one the default save is replaced."""
        name = request.name or self.settings.controls_config.save_path_prefix
        replacing = request.force or request.name is None
        number = await self._checkpoints.save(name, replacing=replacing)
        return StateSaved(text=f"State saved as {name} (generation {number})", generation=number)

    @command(LoadState, long=True)
    async def load(self, request: LoadState, job: Job) -> StateLoaded:
        """Go back to a save or a generation; `load` again undoes it."""
        name = request.name or self.settings.controls_config.save_path_prefix
        number, parts = await self._checkpoints.load(name)
        held = ", ".join(parts) or "a new-born mind"
        return StateLoaded(text=f"Loaded from {name}: {held}", generation=number)

    @command(ResetState, long=True)
    async def reset(self, request: ResetState, job: Job) -> StateReset:
        """Forget all that was learned; the generations before stay and can be loaded."""
        number = await self._checkpoints.reset()
        return StateReset(text=f"New-born (generation {number})", generation=number)

    @property
    def _stage(self) -> float:
        return self._mind.stage if self._mind else 0.0
