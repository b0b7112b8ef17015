"""The trainer: learns by night what was lived by day, and from pairs when it is told to."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.to_thread

from agents.base import Job
from agents.gate import Gate
from agents.recall import recalled, unlearned
from agents.shared_engine import shared_engine
from agents.training.archive import tensors_in
from agents.training.reins import Held, Reins
from agents.training.session import Dataset, EvalResult, TrainingSession
from bus.commands import command
from bus.envelope import Envelope
from bus.errors import BUSY, CommandError
from bus.topics import MIND, NIGHT, MindState, NightStep
from config import Paths
from sovl_daemon.contracts.dreamer import Wonder
from sovl_daemon.contracts.mind import NoteNight
from sovl_daemon.contracts.scribe import Rehearsal, Unlearned
from sovl_daemon.contracts.trainer import (
    EpochProgress,
    LearnNight,
    NightLearned,
    NightMetrics,
    StepProgress,
    TrainedOnPairs,
    TrainingMetrics,
    TrainOnPairs,
)
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.night.curriculum import Curriculum
from sovl_daemon.own_time import OwnTime, fail_after

if TYPE_CHECKING:  # torch is loaded by the generator
    from sovl_daemon.engine.learning.learner import Learner, StepReport
    from sovl_daemon.state import Generation

_MAX_ENTRIES = 500  # interactions of one night...
_MAX_CHARACTERS = 4_000_000  # ...and how much text, which the host holds as long as it lasts
_REMEMBERED = 1000  # learned interactions, of which some are rehearsed
_REHEARSED = 60
_CHECKPOINT_EVERY = 10
_COMMIT_S = 60.0
_STEP_S = 2.0  # of a night on a slow machine, about; it may last that long in any case
_LOOK_S = 10.0  # a step may take seconds
_NIGHT = "a night"


@dataclass
class Best:
    """The best validation loss so far, with what gave it, and how long there was no better one.

    Where nothing is validated the `loss` is None, and the last epoch is the best. `step` counts the
    steps of the epoch that is not over yet.
    """

    loss: float | None
    state: dict[str, Any] | None = None
    epochs: int = 0
    waited: int = 0
    step: int = 0

    def meet(self, loss: float | None, state: dict[str, Any]) -> None:
        """Take note of the epoch that is over."""
        self.epochs += 1
        self.step = 0
        self.waited += 1
        if loss is None or self.loss is None or loss < self.loss:
            self.loss, self.state, self.waited = loss, state, 0


class Trainer(Reins):
    """Trains a candidate beside what answers, and keeps it only if it passes an exam."""

    name: ClassVar[str] = "trainer"
    topics: ClassVar[tuple[str, ...]] = (MIND,)

    async def start(self) -> None:
        """Open the archive."""
        await super().start()
        self._mind: MindState | None = None
        self._training = anyio.Lock()
        self._put_off: set[int] = set()  # interactions of nights that were rolled back
        self._gate = Gate(self, "training")

    async def run(self) -> None:
        """Become what was last committed, as soon as there is an engine."""
        async with self._changing:  # until it knows what was learned, it learns nothing
            await shared_engine.fused()
            await self.wake_up()

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind."""
        if isinstance(event.payload, MindState):
            self._mind = event.payload

    @command(TrainOnPairs, long=True)
    async def train(self, request: TrainOnPairs, job: Job) -> TrainedOnPairs:
        """Train on pairs of prompts and responses; cut off, it goes on with the epoch it was in."""
        dry = request.dry_run or self.is_dry
        self.require_fit()
        await self._gate.passed(job, force=request.force)
        async with self._alone():
            while True:
                await self.let_go(job)
                try:
                    return await self._train(request, job, dry=dry)
                except Held:
                    request = request.model_copy(update={"fresh": False})
                finally:
                    self.put_down()

    @command(LearnNight, internal=True, long=True)
    async def learn_night(self, request: LearnNight, job: Job) -> NightLearned:
        """Learn what no night has learned yet; cut off, it goes on where it was next time."""
        async with self._training, self._changing:
            try:
                return await self._night(request.seconds, job)
            finally:
                self.put_down()

    # A night

    async def _night(self, seconds: float, job: Job) -> NightLearned:
        own_time = OwnTime(every_s=_LOOK_S)  # beside busy programs a night is longer, not shallower
        until = own_time() + seconds
        memory = (await self.ask(Unlearned(limit=0))).memory
        found = await unlearned(self, _MAX_ENTRIES, _MAX_CHARACTERS)
        if not found:
            return NightLearned(learned=0, reason="nothing new to learn")
        self.require_fit()
        unfinished = await self.unfinished(_NIGHT)
        session = await self._session()
        entries = _tonight(found, unfinished, self._put_off)
        entries = entries[: await session.room_for(entries)]
        ids = [each.id for each in entries]
        of = f" of {len(found)}" if len(found) > len(entries) else ""
        job.progress(text=f"Dreaming up questions about {len(entries)}{of} interactions ...\n")
        curriculum = await session.plan_night(entries, await self._rehearsed())
        learner = self.taken_up(await session.learner(curriculum, night=True))
        before = await session.evaluate(learner, curriculum)
        steps = await self._go_on(session, learner, unfinished)
        until = max(until, own_time() + _STEP_S * (curriculum.steps - steps))
        async for report in session.steps(learner, curriculum, steps):
            steps += 1
            await self.measured(report)
            progress = _progress(report, steps, curriculum.steps)
            job.progress(**progress.model_dump())
            told = progress.model_dump(exclude={"tokens_per_s"})
            event = NightStep(reason="learning", entries=len(entries), **told)
            await self.publish(f"{NIGHT}.progress", event)
            if steps % _CHECKPOINT_EVERY == 0:
                state, at = await session.on_thread(learner.state), {"step": steps, "ids": ids}
                async with self.hindrance.met():  # without a checkpoint the night goes on
                    await self.keep_unfinished(
                        state, of=_NIGHT, progress=at, memory=memory, interactions=ids
                    )
            if own_time() >= until:
                break
        after = await session.evaluate(learner, curriculum)
        metrics = _metrics(before, after, curriculum, steps)
        if (problem := session.rejection(before, after, curriculum)) is not None:
            await self.discard_unfinished()
            self._put_off.update(ids)
            self.log.warning("night.rolled_back", reason=problem, **metrics.wire())
            return NightLearned(learned=0, reason=f"rolled back: {problem}", **metrics.wire())
        question = await self._question()
        state = await session.on_thread(learner.candidate.state)
        keep = partial(
            self._keep,
            session,
            learner,
            state,
            "night",
            metrics,
            memory,
            ids=ids,
            question=question,
        )
        number = await self.hindrance.outlast(keep)  # waits for room; who speaks ends it
        text = (
            f"learned {len(ids)} interactions in {steps} steps, "
            f"recall {metrics.recall:.2f}, drift {metrics.drift:.3f}"
        )
        return NightLearned(text=text, learned=len(ids), generation=number, **metrics.wire())

    async def _rehearsed(self) -> list[Interaction]:
        """Some of what earlier nights learned."""
        old = (await self.ask(Rehearsal(limit=_REMEMBERED))).ids
        rng = random.Random(self.settings.core_config.random_seed)  # noqa: S311 - no secret
        return await recalled(self, rng.sample(old, min(_REHEARSED, len(old))))

    async def _go_on(
        self, session: TrainingSession, learner: Learner, unfinished: Generation | None
    ) -> int:
        """Become what learned in an unfinished night; returns the step it was at, or 0."""
        if unfinished is None:
            return 0
        try:
            await session.on_thread(partial(learner.load, await _training_of(unfinished)))
        except CommandError as error:
            self.log.warning("state.begun_anew", reason=error.message)
            return 0
        # Not what was told of: a step may have been made after that, and is in what was kept.
        self.log.info("night.resumed", step=learner.steps)
        return learner.steps

    async def _question(self) -> str:
        """What it wonders after a night, empty if nothing."""
        try:
            return (await self.ask(Wonder(prompt=None))).text
        except CommandError as error:
            self.log.warning("curiosity.speechless", reason=error.message)
            return ""

    # Pairs

    async def _train(self, request: TrainOnPairs, job: Job, *, dry: bool) -> TrainedOnPairs:
        settings = self.settings.training_config
        session = await self._session()
        # By the settings of now: the paths are those of the start.
        path = Path(request.file) if request.file else Paths.of(self.settings).training_file
        dataset = await session.dataset(
            path, epochs=request.epochs, skip_bad=request.skip_bad, dry=dry
        )
        lessons, epochs = len(dataset.curriculum.lessons), dataset.curriculum.options.epochs
        learner = self.taken_up(await session.learner(dataset.curriculum, night=False))
        job.progress(
            text=f"--- Training ({epochs} epochs, {lessons} pairs of {dataset.name}) ---\n"
        )
        before = await _validated(session, learner, dataset)
        if dry and settings.dry_run_params.skip_training:
            return TrainedOnPairs(text=f"Dry run: {_loss(before)}", validation=before)
        best = Best(before)
        if not dry and not request.fresh:
            await self._go_on_training(session, learner, dataset, best, job)
        await self._epochs(session, learner, dataset, best, job, kept=not dry)
        metrics = TrainingMetrics(before=before, validation=best.loss, epochs=best.epochs)
        if dry or best.state is None:
            why = "a dry run" if dry else "the validation loss did not fall"
            text = f"Nothing is kept: {why}. {_compared(before, best.loss)}"
            return TrainedOnPairs(text=text, **metrics.wire())
        await session.on_thread(partial(learner.candidate.load, best.state))
        memory = (await self.ask(Unlearned(limit=0))).memory
        keep = partial(self._keep, session, learner, best.state, "train", metrics, memory)
        number = await self.hindrance.outlast(keep)
        text = f"{_compared(before, best.loss)}, generation {number}"
        return TrainedOnPairs(text=text, generation=number, **metrics.wire())

    async def _epochs(
        self,
        session: TrainingSession,
        learner: Learner,
        dataset: Dataset,
        best: Best,
        job: Job,
        *,
        kept: bool,
    ) -> None:
        """Train until patience is lost; with `kept`, each epoch's end is written down."""
        lessons = dataset.curriculum
        epochs, each = lessons.options.epochs, lessons.steps // lessons.options.epochs
        memory = (await self.ask(Unlearned(limit=0))).memory
        while best.epochs < epochs and best.waited < self.settings.training_config.max_patience:
            start, held = best.epochs * each, False
            steps = session.steps(learner, lessons, start + best.step, each - best.step)
            async with aclosing(steps):
                async for report in steps:
                    best.step += 1
                    await self.measured(report)
                    at = f"Epoch {best.epochs + 1}/{epochs} Step {best.step}/{each}"
                    told = EpochProgress(
                        **_progress(report, start + best.step, lessons.steps).model_dump(),
                        epoch=best.epochs + 1,
                        epochs=epochs,
                        text=f"{at} | Loss: {report.loss:.4f}\n",
                    )
                    job.progress(**told.model_dump())
                    if held := self.is_held:
                        break
            if not held:
                loss = await _validated(session, learner, dataset)
                best.meet(loss, await session.on_thread(learner.candidate.state))
                job.progress(text=f"Epoch {best.epochs}: {_loss(loss)}\n")
            if kept:
                async with self.hindrance.met():
                    await self._keep_training(session, learner, dataset, best, memory)
            if held:
                raise Held

    async def _keep_training(
        self, session: TrainingSession, learner: Learner, dataset: Dataset, best: Best, memory: str
    ) -> None:
        """Write down how far it is."""
        counts = {name: getattr(best, name) for name in ("epochs", "waited")}
        await self.keep_unfinished(
            await session.on_thread(learner.state),
            of=_name(dataset),
            progress={"best": best.loss, **counts},
            memory=memory,
            best=best.state,
        )

    async def _go_on_training(
        self, session: TrainingSession, learner: Learner, dataset: Dataset, best: Best, job: Job
    ) -> None:
        """Become what a training of the same was when it was cut off, if there is one."""
        found = await self.unfinished(_name(dataset))
        if found is None:
            return
        try:
            await session.on_thread(partial(learner.load, await _training_of(found)))
        except CommandError as error:
            self.log.warning("state.begun_anew", reason=error.message)
            return
        at: Mapping[str, Any] = found.manifest.metrics
        best.loss, best.epochs, best.waited = at["best"], at["epochs"], at["waited"]
        lessons = dataset.curriculum
        best.step = learner.steps - best.epochs * (lessons.steps // lessons.options.epochs)
        best.state = await anyio.to_thread.run_sync(tensors_in, found) or None
        where = f"epoch {best.epochs}" + (f", step {best.step}" if best.step else "")
        job.progress(text=f"Going on after {where}, where it was cut off\n")

    # What both share

    async def _keep(
        self,
        session: TrainingSession,
        learner: Learner,
        state: dict[str, Any],
        reason: str,
        metrics: NightMetrics | TrainingMetrics,
        memory: str,
        *,
        ids: Sequence[int] = (),
        question: str = "",
    ) -> int | None:
        """Commit on disk, then answer with it; from here on nothing cancels."""
        from sovl_daemon.engine.learning.candidate import learned_tensors

        engine = await shared_engine.fused()
        with fail_after(_COMMIT_S, OwnTime(), shield=True):
            async with self.saving():
                # Layers that learned before, and do not steer now, stay in the generation.
                others = await session.on_thread(partial(learned_tensors, engine.fused()))
                slept = await self.ask(NoteNight(question=question, foretell=True))
                number = await self.commit(
                    {**others, **state},
                    reason=reason,
                    metrics=metrics.wire(),
                    interactions=ids,
                    mind=slept.mind.to_json(),
                    memory=memory,
                )
                await session.on_thread(learner.commit)
                await self.ask(NoteNight(question=question))
        self.log.info(
            "training.committed", of=reason, generation=number, learned=len(ids), **metrics.wire()
        )
        return number

    async def _session(self) -> TrainingSession:
        stage = self._mind.stage if self._mind else 0.0
        return TrainingSession(await shared_engine.fused(), self.settings, stage)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._training.locked():
            raise CommandError(BUSY, "it is learning already: wait, or cancel that")
        async with self._training, self._changing:
            yield


def _tonight(
    unlearned: list[Interaction], unfinished: Generation | None, put_off: Set[int]
) -> list[Interaction]:
    """What an unfinished night was about, if all that is still to learn, else all there is.

    What was lived since waits for the next night. What was `put_off` comes last: where some cannot
    be learned, the rest should not wait for them for ever.
    """
    ids: Any = unfinished.manifest.metrics["ids"] if unfinished else ()
    begun = [each for each in unlearned if each.id in ids]
    if begun and len(begun) == len(ids):
        return begun
    return sorted(unlearned, key=lambda each: each.id in put_off)


async def _training_of(unfinished: Generation) -> dict[str, Any]:
    found = await anyio.to_thread.run_sync(partial(unfinished.training, "torch"))
    return dict(found or {})


async def _validated(session: TrainingSession, learner: Learner, dataset: Dataset) -> float | None:
    """The validation loss, None where no pair is held back."""
    return await session.loss(learner, dataset.validation) if dataset.validation else None


def _loss(loss: float | None) -> str:
    return "nothing is validated" if loss is None else f"validation loss {loss:.4f}"


def _compared(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "Nothing was validated, as no pair was held back"
    return f"Validation loss {before:.4f} to {after:.4f}"


def _name(dataset: Dataset) -> str:
    return f"training on {dataset.name} ({dataset.digest})"


def _progress(report: StepReport, step: int, steps: int) -> StepProgress:
    return StepProgress(
        step=step,
        steps=steps,
        loss=round(report.loss, 4),
        tokens_per_s=round(report.tokens / report.seconds, 1),
        left_s=round((steps - step) * report.seconds, 1),
    )


def _metrics(
    before: EvalResult, after: EvalResult, curriculum: Curriculum, steps: int
) -> NightMetrics:
    return NightMetrics(
        lessons=len(curriculum.lessons),
        steps=steps,
        recall_before=round(before.recall, 4),
        recall=round(after.recall, 4),
        drift=round(after.drift, 4),
    )
