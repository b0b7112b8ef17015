"""A training session: what is learned, and how well, on the tensor thread behind all talk."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import anyio.to_thread

from agents.generator.steering import fused_layers, influence_of
from bus.errors import BAD_ARGUMENT, ENGINE, CommandError
from sovl_daemon.contracts.trainer import StepProgress
from sovl_daemon.engine.errors import EngineError, JobCancelledError
from sovl_daemon.engine.learning.sample import Sample, common_prefix
from sovl_daemon.engine.thread.inbox import Inbox, call, wait_for
from sovl_daemon.engine.thread.tensor_thread import Priority
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.memory.pairs import Pair, PairsError, read_pairs
from sovl_daemon.memory.split import split
from sovl_daemon.mind.lifecycle import life_weight, night_learning_rate
from sovl_daemon.night.curriculum import (
    ANSWER_WEIGHT,
    Curriculum,
    CurriculumOptions,
    count_that_fits,
    plan,
)
from sovl_daemon.night.layout import SystemLayout
from sovl_daemon.night.replay import Layout, prompt_ids
from sovl_daemon.night.statement import find_statements

if TYPE_CHECKING:  # torch is loaded by the generator
    from config import Settings
    from sovl_daemon.engine.engine import Engine
    from sovl_daemon.engine.learning.learner import Learner, StepReport
    from sovl_daemon.engine.learning.sample import Ids

T = TypeVar("T")

_MIN_STEPS = 130  # fewer do not change enough, however little there is to learn
REPLAY = 4.0  # the weight of dreams against lessons
_EVAL_BATCH = 8


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is learned from, and what is only asked; made of the file `name`.

    Of the same pairs, laid out the same way, the `digest` is the same.
    """

    curriculum: Curriculum
    validation: tuple[Sample, ...]
    name: str
    digest: str

    @property
    def title(self) -> str:
        """What a training on it is called in its checkpoint."""
        return f"training on {self.name} ({self.digest})"


@dataclass(frozen=True, slots=True)
class EvalResult:
    """How well the questions are answered that no lesson asks, and how far the rest moved."""

    recall: float
    drift: float


class TrainingSession:
    """Teaches for one night or one training; `stage` (0..1) is how old the mind is."""

    def __init__(self, engine: Engine, settings: Settings, stage: float) -> None:
        self._engine = engine
        self._fusion = engine.fused()
        self._settings = settings
        self._stage = stage
        self._seed = settings.core_config.random_seed
        self._layout = SystemLayout(engine.tokenizer, settings.generation.system_prompt)

    async def room_for(self, entries: Sequence[Interaction]) -> int:
        """Return how many of them one night has room for, from the first one on."""
        told = [each.prompt for each in entries]
        return await anyio.to_thread.run_sync(count_that_fits, told, CurriculumOptions())

    async def plan_night(
        self, entries: Sequence[Interaction], known: Sequence[Interaction]
    ) -> Curriculum:
        """Lay out a night about `entries` that rehearses what is `known`.

        In a thread of its own, because the base writes its dreams there a token at a time.
        """
        woken = threading.Event()

        def lay_out() -> Curriculum:
            return plan(
                [each.prompt for each in entries],
                _writer(self._engine, self._seed, woken),
                self._layout,
                CurriculumOptions(seed=self._seed),
                weights=[_weight(each) for each in entries],
                known=[each.prompt for each in known],
                lived=_that_tell_nothing(entries, self._layout),
            )

        try:
            curriculum = await anyio.to_thread.run_sync(lay_out, abandon_on_cancel=True)
        finally:
            woken.set()  # a thread that nobody waits for any more ends by itself
        curriculum = curriculum.within(self._settings.training_config.max_seq_length)
        factor = self._settings.controls_config.sleep_time_factor
        return curriculum.lasting(max(_MIN_STEPS, curriculum.steps), factor)

    async def dataset(
        self, path: Path, *, epochs: int | None, skip_bad: bool, dry: bool
    ) -> Dataset:
        """Lay out training on a file of pairs. Raises CommandError where one is malformed."""
        left = threading.Event()
        work = partial(self._read, path, epochs, "skip" if skip_bad else "refuse", dry, left)
        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except PairsError as error:
            raise CommandError(BAD_ARGUMENT, f"file: {error}") from None
        finally:
            left.set()

    async def learner(self, curriculum: Curriculum, *, night: bool) -> Learner:
        """Return a new candidate that learns at its own pace by night, at the set one by day."""
        from sovl_daemon.engine.learning.learner import Learner, LearnerOptions

        training = self._settings.training_config
        rate = night_learning_rate(self._stage, training) if night else training.learning_rate
        options = LearnerOptions(
            learning_rate=rate,
            updates=curriculum.steps if night else 0,
            accumulation=1 if night else training.accumulation_steps,
            replay=REPLAY,
            seed=self._seed,
        )
        # The layers weigh what they will weigh after the night.
        lifecycle = self._settings.controls_config.enable_lifecycle_weighting
        factor = life_weight(self._stage, training) if lifecycle else 1.0
        layers = fused_layers(self._settings, self._engine.model.layers)
        make = partial(
            Learner,
            self._engine.model,
            self._fusion,
            options,
            common=common_prefix([*curriculum.lessons, *curriculum.chats]),
            weights=influence_of(self._settings, factor).weights_of(layers),
        )
        return await self.on_thread(make)

    async def steps(
        self, learner: Learner, curriculum: Curriculum, start: int = 0, limit: int | None = None
    ) -> AsyncGenerator[StepReport, None]:
        """Learn from the step `start` on, at most so many of them. Raises CommandError."""
        inbox: Inbox[StepReport] = Inbox()
        batches = islice(curriculum.batches(start), limit)
        steps = (learner.step(batch) for batch in batches)
        running = self._engine.thread.submit(steps, inbox, Priority.TRAINING)
        try:
            async for report in inbox:
                yield report
        except EngineError as error:
            raise CommandError(ENGINE, str(error)) from None
        finally:
            self._engine.thread.cancel(running)

    async def evaluate(self, learner: Learner, curriculum: Curriculum) -> EvalResult:
        """Return how well it does so far what no lesson asks; nothing is learned."""
        questions = await self._evaluated(learner, curriculum.eval_questions)
        dreams = await self._evaluated(learner, curriculum.eval_dreams)
        recall = math.exp(-_mean(questions, "loss")) if questions else 1.0
        return EvalResult(recall, _mean(dreams, "divergence"))

    def rejection(
        self, before: EvalResult, after: EvalResult, curriculum: Curriculum
    ) -> str | None:
        """Return why a night with these results before and after it is not kept, None if it is."""
        night = self._settings.night
        if after.drift > night.most_drift:
            return f"it drifted by {after.drift:.3f} (night.most_drift is {night.most_drift})"
        if curriculum.eval_questions and after.recall < max(before.recall, night.least_recall):
            return (
                f"it recalls {after.recall:.2f} of what it was told "
                f"(night.least_recall is {night.least_recall})"
            )
        return None

    async def validation_loss(self, learner: Learner, dataset: Dataset) -> float | None:
        """Return the loss of what is held back, None where no pair is."""
        return await self.loss(learner, dataset.validation) if dataset.validation else None

    async def loss(self, learner: Learner, samples: Sequence[Sample]) -> float:
        """Return the mean loss a token of answers that nothing is learned from."""
        return _mean(await self._evaluated(learner, samples), "loss")

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns on the tensor thread, behind all talk. Raises CommandError."""
        try:
            return await call(self._engine.thread, work, Priority.TRAINING)
        except EngineError as error:
            raise CommandError(ENGINE, str(error)) from None

    async def _evaluated(self, learner: Learner, samples: Sequence[Sample]) -> list[StepReport]:
        parts = [samples[at : at + _EVAL_BATCH] for at in range(0, len(samples), _EVAL_BATCH)]
        return [await self.on_thread(partial(learner.evaluate, part)) for part in parts]

    def _read(
        self,
        path: Path,
        epochs: int | None,
        on_bad: Literal["skip", "refuse"],
        dry: bool,
        left: threading.Event,
    ) -> Dataset:
        """Read and lay out a file; ends early, with an error, once everybody `left`."""
        training, core = self._settings.training_config, self._settings.core_config
        limits, length = training.dry_run_params, training.max_seq_length
        found, max_samples = read_pairs(path, on_bad=on_bad), None
        if dry:
            max_samples, length = limits.max_samples, min(length, limits.max_length)
        parts = split(found.pairs, core.valid_split_ratio, self._seed, max_samples=max_samples)
        options = CurriculumOptions(
            epochs=1 if dry else epochs or training.train_epochs,
            batch=training.batch_size,
            replayed=0,
            seed=self._seed,
        )
        lessons = tuple(self._sample(pair, length) for pair in _until(left, parts.training))
        validation = tuple(self._sample(pair, length) for pair in _until(left, parts.validation))
        digest = hashlib.sha256(repr(astuple(options)).encode())
        for sample in (*lessons, *validation):
            digest.update(repr(sample).encode())
        name = digest.hexdigest()[:16]
        return Dataset(Curriculum(lessons, (), (), options), validation, path.name, name)

    def _sample(self, pair: Pair, length: int) -> Sample:
        """The pair as token ids, at most `length` together."""
        prompt = prompt_ids(self._layout, pair.prompt)
        return Sample(prompt, tuple(self._layout.encode_answer(pair.response))).within(length)


def progress_of(report: StepReport, step: int, steps: int) -> StepProgress:
    """Return a step as it is told, the `step`th of `steps`."""
    return StepProgress(
        step=step,
        steps=steps,
        loss=round(report.loss, 4),
        tokens_per_s=round(report.tokens / report.seconds, 1),
        left_s=round((steps - step) * report.seconds, 1),
    )


def _mean(reports: Sequence[StepReport], of: str) -> float:
    """Over the tokens of all reports."""
    tokens = max(1, sum(each.tokens for each in reports))
    return float(sum(getattr(each, of) * each.tokens for each in reports) / tokens)


def _writer(
    engine: Engine, seed: int, woken: threading.Event
) -> Callable[[Sequence[Ids], int], list[list[int]]]:
    """What lets the base write on the tensor thread while another thread waits; until `woken`."""
    from sovl_daemon.engine.learning.text_sampling import sample_texts

    calls = count()

    def write(prompts: Sequence[Ids], tokens: int) -> list[list[int]]:
        stop_ids, own = engine.tokenizer.stop_ids, seed + next(calls)
        steps = sample_texts(engine.model, prompts, tokens, stop_ids=stop_ids, seed=own)
        return wait_for(engine.thread, _until(woken, steps), Priority.TRAINING)

    return write


def _until(left: threading.Event, items: Iterable[T]) -> Iterator[T]:
    """Yield them; raises JobCancelledError once nobody waits for them any more."""
    for item in items:
        if left.is_set():
            raise JobCancelledError("cancelled")
        yield item


def _that_tell_nothing(entries: Sequence[Interaction], layout: Layout) -> list[Sample]:
    """The exchanges in which nobody told anything, to stay as they are."""
    found = []
    for each in entries:
        if each.response.strip() and not find_statements(each.prompt):
            prompt = prompt_ids(layout, each.prompt)
            answer = tuple(layout.encode_answer(each.response))
            found.append(Sample(prompt, answer, _weight(each), teacher=prompt))
    return found


def _weight(entry: Interaction) -> float:
    """What answers a question that the mind asked by itself counts for more."""
    return 1.0 if entry.question is None else ANSWER_WEIGHT
