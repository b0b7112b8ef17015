"""The trainer: learns by night what was lived by day, and from pairs when it is told to."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.to_thread
from pydantic import Field

from agents.archive import Archive
from agents.base import Job
from agents.device import device
from agents.tuning import fused_layers, influence_of
from bus.commands import Arguments, command
from bus.envelope import Envelope
from bus.errors import BAD_ARGUMENT, BUSY, ENGINE, CommandError
from bus.topics import MIND, NIGHT, MindState, NightStep
from sovl_daemon.memory.pairs import PairsError, read_pairs
from sovl_daemon.memory.split import split
from sovl_daemon.mind.lifecycle import life_weight, night_learning_rate

if TYPE_CHECKING:
    from sovl_daemon.engine.engine import Engine
    from sovl_daemon.engine.learner import Learner, StepReport
    from sovl_daemon.engine.sample import Ids, Sample
    from sovl_daemon.night.curriculum import Curriculum
    from sovl_daemon.night.replay import Layout

_MOST_ENTRIES = 500  # interactions of one night
_REHEARSED = 60  # interactions that earlier nights learned
_NIGHT_EPOCHS = 9
_LEAST_STEPS = 130  # fewer do not change enough, however little there is to learn
_REPLAY = 3.0  # the weight of dreams against lessons
_CHECKPOINT_EVERY = 20
_COMMIT_S = 60.0


class TrainArguments(Arguments):
    """How to train; what is left out comes from the configuration."""

    epochs: int | None = Field(default=None, ge=1, le=1000, description="Passes over the pairs.")
    file: str | None = Field(default=None, description="Pairs; store.training_file if left out.")
    skip_bad: bool = Field(default=False, description="Skip malformed lines, and count them.")
    dry_run: bool = Field(default=False, description="Within dry_run_params; keeps nothing.")


class NightArguments(Arguments):
    """How long a night may last."""

    seconds: float = Field(gt=0)


class Trainer(Archive):
    """Trains a candidate beside what answers, and keeps it only if it passes an exam."""

    name: ClassVar[str] = "trainer"
    topics: ClassVar[tuple[str, ...]] = (MIND,)

    async def start(self) -> None:
        """Open the archive."""
        await super().start()
        self._mind: MindState | None = None
        self._training = anyio.Lock()

    async def run(self) -> None:
        """Become what was last committed, as soon as there is an engine."""
        await device.engine()
        await self.wake_up()

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind."""
        if isinstance(event.payload, MindState):
            self._mind = event.payload

    @command(TrainArguments)
    async def train(self, args: TrainArguments, job: Job) -> dict[str, Any]:
        """Train on pairs of prompts and responses, with progress step by step."""
        dry = args.dry_run or self.settings.training_config.dry_run
        async with self._alone():
            return await self._train(args, job, dry=dry)

    @command(NightArguments, internal=True)
    async def learn_night(self, args: NightArguments, job: Job) -> dict[str, Any]:
        """Learn what no night has learned yet; cancelled, it goes on where it was next time."""
        async with self._training, self._changing:
            return await self._night(args.seconds, job)

    # A night

    async def _night(self, seconds: float, job: Job) -> dict[str, Any]:
        until = time.monotonic() + seconds
        engine = await device.engine()
        found = await self.ask("unlearned", limit=_MOST_ENTRIES)
        entries = found["interactions"]
        if not entries:
            return {"learned": 0, "reason": "nothing new to learn"}
        job.progress(text=f"Dreaming up questions about {len(entries)} interactions ...\n")
        course = await self._plan(engine, entries)
        learner = await self._learner(engine, course, night=True)
        ids = [each["id"] for each in entries]
        began = await self._resume(learner, ids)
        before = await self._exam(engine, learner, course)
        steps, reports = began, []
        async for report in self._steps(engine, learner, course, began):
            steps += 1
            reports.append(report)
            await self._report(job, steps, course.steps, report, len(entries))
            if steps % _CHECKPOINT_EVERY == 0:
                await self._checkpoint(engine, learner, ids, steps, found["memory"])
            if time.monotonic() >= until:
                break
        after = await self._exam(engine, learner, course)
        metrics = _metrics(before, after, reports, course, steps)
        if (problem := self._failed(before, after, course)) is not None:
            await self._discard()
            self.log.warning("night.rolled_back", reason=problem, **metrics)
            return {"learned": 0, "reason": f"rolled back: {problem}", **metrics}
        return await self._keep(engine, learner, ids, metrics, found["memory"])

    async def _keep(
        self, engine: Engine, learner: Learner, ids: list[int], metrics: dict[str, Any], memory: str
    ) -> dict[str, Any]:
        """Commit on disk, then answer with it; from here on nothing cancels."""
        with anyio.fail_after(_COMMIT_S, shield=True):
            question = await self._question()
            mind = (await self.ask("mind_slept", question=question))["document"]
            state = await _on_thread(engine, learner.candidate.state)
            number = await self.commit(
                state,
                reason="night",
                metrics=metrics,
                interactions=ids,
                mind=mind,
                memory=memory,
            )
            await _on_thread(engine, learner.commit)
        self.log.info("night.committed", generation=number, learned=len(ids), **metrics)
        text = (
            f"learned {len(ids)} interactions in {metrics['steps']} steps, "
            f"recall {metrics['recall']:.2f}, drift {metrics['drift']:.3f}"
        )
        return {"text": text, "learned": len(ids), "generation": number, **metrics}

    async def _plan(self, engine: Engine, entries: list[dict[str, Any]]) -> Curriculum:
        """In a thread of its own, because the base writes its dreams there a token at a time."""
        from sovl_daemon.night.curriculum import CurriculumOptions, plan
        from sovl_daemon.night.layout import SystemLayout

        layout = SystemLayout(engine.tokenizer, self.settings.generation.system_prompt)
        seed = self.settings.core_config.random_seed
        told = [each["prompt"] for each in entries]
        lived = _that_tell_nothing(entries, layout)
        known = [each["prompt"] for each in await self._rehearsed(entries)]
        factor = self.settings.controls_config.sleep_time_factor
        options = CurriculumOptions(seed=seed, epochs=_NIGHT_EPOCHS)
        woken = threading.Event()
        write = _writer(engine, seed, woken)
        work = partial(plan, told, write, layout, options, known=known, lived=lived)
        try:
            course = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        finally:
            woken.set()  # a thread that nobody waits for any more ends by itself
        return course.lasting(max(_LEAST_STEPS, course.steps), factor)

    async def _rehearsed(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Some of what earlier nights learned."""
        recent = (await self.ask("history", limit=1000))["interactions"]
        new = {each["id"] for each in entries}
        old = [each for each in recent if each["id"] not in new]
        chance = random.Random(self.settings.core_config.random_seed)  # noqa: S311 - no secret
        return chance.sample(old, min(_REHEARSED, len(old)))

    async def _learner(self, engine: Engine, course: Curriculum, *, night: bool) -> Learner:
        from sovl_daemon.engine.learner import Learner, LearnerOptions
        from sovl_daemon.engine.sample import common_prefix

        training = self.settings.training_config
        stage = self._mind.stage if self._mind else 0.0
        rate = night_learning_rate(stage, training) if night else training.learning_rate
        options = LearnerOptions(
            learning_rate=rate,
            updates=course.steps if night else 0,
            accumulation=1 if night else training.accumulation_steps,
            replay=_REPLAY,
            seed=self.settings.core_config.random_seed,
        )
        assert engine.fusion is not None  # noqa: S101 - it is shared with its scaffold
        make = partial(
            Learner,
            engine.model,
            engine.fusion,
            options,
            common=common_prefix([*course.lessons, *course.chats]),
            weights=self._weights(engine, stage),
        )
        learner: Learner = await _on_thread(engine, make)
        return learner

    def _weights(self, engine: Engine, stage: float) -> dict[int, float]:
        """The weights of the layers as they will be after the night."""
        lifecycle = self.settings.controls_config.enable_lifecycle_weighting
        factor = life_weight(stage, self.settings.training_config) if lifecycle else 1.0
        layers = fused_layers(self.settings, engine.model.layers)
        return influence_of(self.settings, factor).over(layers)

    async def _steps(
        self,
        engine: Engine,
        learner: Learner,
        course: Curriculum,
        start: int,
        most: int | None = None,
    ) -> AsyncIterator[StepReport]:
        from sovl_daemon.engine.errors import EngineError
        from sovl_daemon.engine.inbox import Inbox
        from sovl_daemon.engine.priority import Priority

        inbox: Inbox[StepReport] = Inbox()
        batches = islice(course.batches(start), most)
        steps = (learner.step(batch) for batch in batches)
        running = engine.thread.submit(steps, inbox, Priority.TRAINING)
        try:
            async for report in inbox:
                yield report
        except EngineError as error:
            raise CommandError(ENGINE, str(error)) from None
        finally:
            engine.thread.cancel(running)

    async def _exam(self, engine: Engine, learner: Learner, course: Curriculum) -> dict[str, float]:
        """How well the questions are answered that no lesson asks, and how far the rest moved."""
        asked = await self._evaluated(engine, learner, course.asked)
        kept = await self._evaluated(engine, learner, course.kept)
        loss = sum(r.loss * r.tokens for r in asked) / max(1, sum(r.tokens for r in asked))
        drift = sum(r.divergence * r.tokens for r in kept) / max(1, sum(r.tokens for r in kept))
        return {"recall": math.exp(-loss) if asked else 1.0, "drift": drift}

    async def _evaluated(
        self, engine: Engine, learner: Learner, samples: Sequence[Sample]
    ) -> list[StepReport]:
        parts = [samples[at : at + 8] for at in range(0, len(samples), 8)]
        return [await _on_thread(engine, partial(learner.evaluate, part)) for part in parts]

    def _failed(
        self, before: dict[str, float], after: dict[str, float], course: Curriculum
    ) -> str | None:
        night = self.settings.night
        if after["drift"] > night.most_drift:
            return f"it drifted by {after['drift']:.3f} (night.most_drift is {night.most_drift})"
        if course.asked and after["recall"] < max(before["recall"], night.least_recall):
            return (
                f"it recalls {after['recall']:.2f} of what it was told "
                f"(night.least_recall is {night.least_recall})"
            )
        return None

    async def _question(self) -> str:
        """What it wonders after a night, empty if nothing."""
        try:
            return str((await self.ask("wonder", prompt=None))["text"])
        except CommandError as error:
            self.log.warning("curiosity.speechless", reason=error.message)
            return ""

    # Checkpoints

    async def _checkpoint(
        self, engine: Engine, learner: Learner, ids: list[int], step: int, memory: str
    ) -> None:
        if self._writer is None:
            return
        from sovl_daemon.state import Contents

        state = await _on_thread(engine, learner.state)
        work = partial(
            self._writer.checkpoint,
            Contents(training=state),
            self.origin(memory),
            progress={"step": step, "ids": ids},
            interactions=ids,
        )
        await anyio.to_thread.run_sync(work)

    async def _resume(self, learner: Learner, ids: list[int]) -> int:
        """Go on with an unfinished night about the same; returns the step it was at."""
        if self._writer is None:
            return 0
        from sovl_daemon.engine.errors import OptionError

        engine = await device.engine()
        found = (await anyio.to_thread.run_sync(self._writer.candidate)).generation
        if found is None or found.manifest.metrics.get("ids") != ids:
            await self._discard()
            return 0
        try:
            await _on_thread(engine, partial(learner.load, found.training("torch") or {}))
        except (OptionError, KeyError) as error:
            self.log.warning("night.begun_anew", reason=str(error))
            await self._discard()
            return 0
        step = int(str(found.manifest.metrics["step"]))
        self.log.info("night.resumed", step=step)
        return step

    async def _discard(self) -> None:
        if self._writer is not None:
            await anyio.to_thread.run_sync(self._writer.discard_candidate)

    async def _report(
        self, job: Job, step: int, steps: int, report: StepReport, entries: int
    ) -> None:
        left = (steps - step) * report.seconds
        shown = {
            "step": step,
            "steps": steps,
            "loss": round(report.loss, 4),
            "tokens_per_s": round(report.tokens / report.seconds, 1),
            "left_s": round(left, 1),
        }
        job.progress(**shown)
        event = NightStep(
            reason="learning",
            entries=entries,
            step=step,
            steps=steps,
            loss=report.loss,
            left_s=left,
        )
        await self.publish(f"{NIGHT}.progress", event)

    # Pairs

    async def _train(self, args: TrainArguments, job: Job, *, dry: bool) -> dict[str, Any]:
        engine = await device.engine()
        settings = self.settings.training_config
        course, validation, file = await self._pairs(engine, args, dry=dry)
        learner = await self._learner(engine, course, night=False)
        epochs = f"{course.options.epochs} epochs"
        job.progress(text=f"--- Training ({epochs}, {len(course.lessons)} pairs of {file}) ---\n")
        before = await self._loss(engine, learner, validation)
        if dry and settings.dry_run_params.skip_training:
            return {"text": f"Dry run: validation loss {before:.4f}", "validation": before}
        best, state, steps = await self._epochs(engine, learner, course, validation, before, job)
        metrics = {"before": before, "validation": best, "steps": steps}
        if dry or state is None:
            why = "a dry run" if dry else "the validation loss did not fall"
            return {"text": f"Nothing is kept: {why} ({before:.4f}, best {best:.4f})", **metrics}
        await _on_thread(engine, partial(learner.candidate.load, state))
        return await self._keep_trained(engine, learner, state, metrics)

    async def _epochs(
        self,
        engine: Engine,
        learner: Learner,
        course: Curriculum,
        validation: Sequence[Sample],
        before: float,
        job: Job,
    ) -> tuple[float, dict[str, Any] | None, int]:
        """Train until patience is lost; returns the best loss, that epoch's state, and steps."""
        best, state, waited, steps = before, None, 0, 0
        each = course.steps // course.options.epochs
        for epoch in range(course.options.epochs):
            async for report in self._steps(engine, learner, course, epoch * each, each):
                steps += 1
                _told_step(job, course, steps, report)
            loss = await self._loss(engine, learner, validation)
            job.progress(text=f"Epoch {epoch + 1}: validation loss {loss:.4f}\n")
            if loss < best:
                best, waited = loss, 0
                state = await _on_thread(engine, learner.candidate.state)
                continue
            waited += 1
            if waited >= self.settings.training_config.max_patience:
                break
        return best, state, steps

    async def _keep_trained(
        self, engine: Engine, learner: Learner, state: dict[str, Any], metrics: dict[str, Any]
    ) -> dict[str, Any]:
        memory = (await self.ask("unlearned", limit=0))["memory"]
        with anyio.fail_after(_COMMIT_S, shield=True):
            mind = (await self.ask("mind_slept", question=""))["document"]
            number = await self.commit(
                state, reason="train", metrics=metrics, interactions=[], mind=mind, memory=memory
            )
            await _on_thread(engine, learner.commit)
        self.log.info("training.committed", generation=number, **metrics)
        fell = f"{metrics['before']:.4f} to {metrics['validation']:.4f}"
        text = f"Validation loss {fell}, generation {number}"
        return {"text": text, "generation": number, **metrics}

    async def _pairs(
        self, engine: Engine, args: TrainArguments, *, dry: bool
    ) -> tuple[Curriculum, list[Sample], str]:
        from sovl_daemon.engine.sample import Sample
        from sovl_daemon.night.curriculum import Curriculum, CurriculumOptions
        from sovl_daemon.night.layout import SystemLayout
        from sovl_daemon.night.replay import prompt_ids

        training, core = self.settings.training_config, self.settings.core_config
        path = Path(args.file) if args.file else self.paths.training_file
        read = partial(read_pairs, path, on_bad="skip" if args.skip_bad else "refuse")
        try:
            pairs = await anyio.to_thread.run_sync(read)
        except PairsError as error:
            raise CommandError(BAD_ARGUMENT, f"file: {error}") from None
        limits = training.dry_run_params
        parts = split(
            pairs.pairs,
            core.valid_split_ratio,
            core.random_seed,
            max_samples=limits.max_samples if dry else None,
        )
        length = min(training.max_seq_length, limits.max_length) if dry else training.max_seq_length
        layout = SystemLayout(engine.tokenizer, self.settings.generation.system_prompt)

        def sample(pair: Any) -> Sample:
            prompt = prompt_ids(layout, pair.prompt)
            answer = tuple(layout.encode_answer(pair.response))
            return Sample(prompt[-length:], answer[: max(1, length - len(prompt))])

        epochs = 1 if dry else args.epochs or training.train_epochs
        options = CurriculumOptions(
            epochs=epochs, batch=training.batch_size, replayed=0, seed=core.random_seed
        )
        lessons = tuple(sample(pair) for pair in parts.training)
        return (
            Curriculum(lessons, (), (), options),
            [sample(p) for p in parts.validation],
            path.name,
        )

    async def _loss(self, engine: Engine, learner: Learner, samples: Sequence[Sample]) -> float:
        reports = await self._evaluated(engine, learner, samples)
        tokens = max(1, sum(each.tokens for each in reports))
        return sum(each.loss * each.tokens for each in reports) / tokens

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._training.locked():
            raise CommandError(BUSY, "it is learning already: wait, or cancel that")
        async with self._training, self._changing:
            yield


def _writer(
    engine: Engine, seed: int, woken: threading.Event
) -> Callable[[Sequence[Ids], int], list[list[int]]]:
    """What lets the base write on the tensor thread while another thread waits; until `woken`."""
    from sovl_daemon.engine.priority import Priority
    from sovl_daemon.engine.waiting import wait_for
    from sovl_daemon.engine.writing import writing

    calls = count()

    def write(prompts: Sequence[Ids], tokens: int) -> list[list[int]]:
        stop_ids, own = engine.tokenizer.stop_ids, seed + next(calls)
        steps = writing(engine.model, prompts, tokens, stop_ids=stop_ids, seed=own)
        return wait_for(engine.thread, _while_asleep(steps, woken), Priority.TRAINING)

    return write


def _while_asleep(
    steps: Iterator[list[list[int]] | None], woken: threading.Event
) -> Iterator[list[list[int]] | None]:
    from sovl_daemon.engine.errors import JobCancelledError

    for step in steps:
        if woken.is_set():
            raise JobCancelledError("woken")
        yield step


def _that_tell_nothing(entries: list[dict[str, Any]], layout: Layout) -> list[Sample]:
    """The exchanges in which nobody told anything, to stay as they are."""
    from sovl_daemon.engine.sample import Sample
    from sovl_daemon.night.replay import prompt_ids
    from sovl_daemon.night.statement import find_statements

    found = []
    for each in entries:
        if each["response"].strip() and not find_statements(each["prompt"]):
            prompt = prompt_ids(layout, each["prompt"])
            answer = tuple(layout.encode_answer(each["response"]))
            found.append(Sample(prompt, answer, teacher=prompt))
    return found


async def _on_thread(engine: Engine, work: Any) -> Any:
    """Run on the tensor thread, behind all talk. Raises CommandError."""
    from sovl_daemon.engine.errors import EngineError
    from sovl_daemon.engine.inbox import call
    from sovl_daemon.engine.priority import Priority

    try:
        return await call(engine.thread, work, Priority.TRAINING)
    except EngineError as error:
        raise CommandError(ENGINE, str(error)) from None


def _told_step(job: Job, course: Curriculum, steps: int, report: StepReport) -> None:
    epochs, each = course.options.epochs, course.steps // course.options.epochs
    epoch, step = divmod(steps - 1, each)
    job.progress(
        epoch=epoch + 1,
        epochs=epochs,
        step=step + 1,
        steps=each,
        loss=round(report.loss, 4),
        tokens_per_s=round(report.tokens / report.seconds, 1),
        left_s=round((course.steps - steps) * report.seconds, 1),
        text=f"Epoch {epoch + 1}/{epochs} Step {step + 1}/{each} | Loss: {report.loss:.4f}\n",
    )


def _metrics(
    before: dict[str, float],
    after: dict[str, float],
    reports: list[StepReport],
    course: Curriculum,
    steps: int,
) -> dict[str, Any]:
    return {
        "lessons": len(course.lessons),
        "steps": steps,
        "loss": round(reports[-1].loss, 4) if reports else None,
        "recall_before": round(before["recall"], 4),
        "recall": round(after["recall"], 4),
        "drift": round(after["drift"], 4),
    }
