"""Training on pairs of prompts and responses: epoch by epoch, until the loss falls no more."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from agents.base import Agent, Job
from agents.shared_engine import shared_engine
from agents.training.checkpoints import Checkpoints
from agents.training.session import Dataset, TrainingSession, progress_of
from agents.training.throttle import TrainingPaused, TrainingThrottle
from config import Paths
from sovl_daemon.contracts.scribe import Unlearned
from sovl_daemon.contracts.trainer import (
    EpochProgress,
    TrainedOnPairs,
    TrainingMetrics,
    TrainOnPairs,
)

if TYPE_CHECKING:  # torch is loaded by the generator
    from torch import Tensor

    from sovl_daemon.engine.learning.learner import Learner


class UnfinishedTraining(BaseModel):
    """How far a training was at its last whole epoch, as its checkpoint says; see `BestEpoch`."""

    best: float | None
    epochs: int
    waited: int


@dataclass
class BestEpoch:
    """The best validation loss so far, with what gave it, and how long there was no better one.

    Where nothing is validated the `loss` is None, and the last epoch is the best. `step` counts the
    steps of the epoch that is not over yet.
    """

    loss: float | None
    state: Mapping[str, Tensor] | None = None
    epochs: int = 0
    waited: int = 0
    step: int = 0

    def meet(self, loss: float | None, state: Mapping[str, Tensor]) -> None:
        """Take note of the epoch that is over."""
        self.epochs += 1
        self.step = 0
        self.waited += 1
        if loss is None or self.loss is None or loss < self.loss:
            self.loss, self.state, self.waited = loss, state, 0


@dataclass(frozen=True, slots=True)
class PairRun:
    """One training: who learns from what, and the best of it so far."""

    session: TrainingSession
    learner: Learner
    dataset: Dataset
    best: BestEpoch


class PairTraining:
    """Trains on a file of pairs, and keeps the epoch that answered best what it did not learn."""

    def __init__(self, agent: Agent, checkpoints: Checkpoints, throttle: TrainingThrottle) -> None:
        self._agent = agent
        self._checkpoints = checkpoints
        self._throttle = throttle

    async def train(
        self, request: TrainOnPairs, job: Job, *, stage: float, dry: bool
    ) -> TrainedOnPairs:
        """Train until patience is lost. Raises TrainingPaused where it is to go on later."""
        settings = self._agent.settings
        session = TrainingSession(await shared_engine.fused(), settings, stage)
        # By the settings of now: the paths are those of the start.
        path = Path(request.file) if request.file else Paths.of(settings).training_file
        dataset = await session.dataset(
            path, epochs=request.epochs, skip_bad=request.skip_bad, dry=dry
        )
        lessons, epochs = len(dataset.curriculum.lessons), dataset.curriculum.options.epochs
        learner = self._throttle.attach(await session.learner(dataset.curriculum, night=False))
        job.progress(
            text=f"--- Training ({epochs} epochs, {lessons} pairs of {dataset.name}) ---\n"
        )
        before = await session.validation_loss(learner, dataset)
        if dry and settings.training_config.dry_run_params.skip_training:
            return TrainedOnPairs(text=f"Dry run: {_loss(before)}", validation=before)
        best = BestEpoch(before)
        run = PairRun(session, learner, dataset, best)
        if not dry and not request.fresh:
            await self._resume(run, job)
        await self._epochs(run, job, kept=not dry)
        metrics = TrainingMetrics(before=before, validation=best.loss, epochs=best.epochs)
        if dry or best.state is None:
            why = "a dry run" if dry else "the validation loss did not fall"
            text = f"Nothing is kept: {why}. {_compared(before, best.loss)}"
            return TrainedOnPairs(text=text, **metrics.wire())
        await session.on_thread(partial(learner.candidate.load, best.state))
        commit = partial(
            self._checkpoints.commit,
            session,
            learner,
            best.state,
            metrics,
            reason="train",
            memory=(await self._agent.ask(Unlearned(limit=0))).memory,
        )
        number = await self._agent.hindrance.outlast(commit)
        text = f"{_compared(before, best.loss)}, generation {number}"
        return TrainedOnPairs(text=text, generation=number, **metrics.wire())

    async def _resume(self, run: PairRun, job: Job) -> None:
        """Become what a training of the same was when it was cut off, if there is one."""
        found = await self._checkpoints.unfinished(run.dataset.title, UnfinishedTraining)
        if found is None:
            return
        if not await self._checkpoints.resume(run.session, run.learner, found):
            return
        was, best, lessons = found.progress, run.best, run.dataset.curriculum
        best.loss, best.epochs, best.waited = was.best, was.epochs, was.waited
        best.step = run.learner.steps - best.epochs * (lessons.steps // lessons.options.epochs)
        best.state = await found.best() or None
        where = f"epoch {best.epochs}" + (f", step {best.step}" if best.step else "")
        job.progress(text=f"Going on after {where}, where it was cut off\n")

    async def _epochs(self, run: PairRun, job: Job, *, kept: bool) -> None:
        """Train until patience is lost; with `kept`, each epoch's end is written down.

        Raises:
            TrainingPaused: it was held back.

        """
        agent, session, learner, best = self._agent, run.session, run.learner, run.best
        lessons = run.dataset.curriculum
        epochs, each = lessons.options.epochs, lessons.steps // lessons.options.epochs
        memory = (await agent.ask(Unlearned(limit=0))).memory
        while best.epochs < epochs and best.waited < agent.settings.training_config.max_patience:
            start, held = best.epochs * each, False
            steps = session.steps(learner, lessons, start + best.step, each - best.step)
            async with aclosing(steps):
                async for report in steps:
                    best.step += 1
                    await self._throttle.measured(report)
                    at = f"Epoch {best.epochs + 1}/{epochs} Step {best.step}/{each}"
                    progress = EpochProgress(
                        **progress_of(report, start + best.step, lessons.steps).model_dump(),
                        epoch=best.epochs + 1,
                        epochs=epochs,
                        text=f"{at} | Loss: {report.loss:.4f}\n",
                    )
                    job.progress(**progress.model_dump())
                    if held := self._throttle.is_held:
                        break
            if not held:
                loss = await session.validation_loss(learner, run.dataset)
                best.meet(loss, await session.on_thread(learner.candidate.state))
                job.progress(text=f"Epoch {best.epochs}: {_loss(loss)}\n")
            if kept:
                async with agent.hindrance.met():
                    await self._checkpoints.keep_unfinished(
                        await session.on_thread(learner.state),
                        of=run.dataset.title,
                        progress=UnfinishedTraining(
                            best=best.loss, epochs=best.epochs, waited=best.waited
                        ),
                        memory=memory,
                        best=best.state,
                    )
            if held:
                raise TrainingPaused


def _loss(loss: float | None) -> str:
    return "nothing is validated" if loss is None else f"validation loss {loss:.4f}"


def _compared(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "Nothing was validated, as no pair was held back"
    return f"Validation loss {before:.4f} to {after:.4f}"
