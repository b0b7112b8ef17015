"""The mind's numbers: what every answer, dream and night makes of them."""

from __future__ import annotations

import json
import math
import time
from functools import partial
from typing import Any, ClassVar, Literal

import anyio
import anyio.to_thread
from pydantic import Field

from agents.base import Agent, Job
from agents.knobs import Knobs
from bus.commands import Arguments, NoArguments, command
from bus.envelope import Envelope
from bus.errors import BAD_ARGUMENT, CommandError, FatalError
from bus.topics import (
    ANSWERING,
    INTERACTION,
    MIND,
    AnswerStarted,
    DreamKept,
    InteractionRecorded,
    MindState,
)
from config import Settings
from sovl_daemon.conditions import condition_of
from sovl_daemon.durable import replacing, sweep
from sovl_daemon.mind.confidence import NEUTRAL
from sovl_daemon.mind.lifecycle import capacity, stage
from sovl_daemon.mind.state import Mind
from sovl_daemon.mind.temperament import mood

_TICK_S = 1.0


class TempArguments(Arguments):
    """The eight knobs of the temperament, in the order of the manual; what is left out stays."""

    eager: float | None = Field(default=None, description="temp_eager_threshold.")
    sluggish: float | None = Field(default=None, description="temp_sluggish_threshold.")
    influence: float | None = Field(default=None, description="temp_mood_influence.")
    curiosity: float | None = Field(default=None, description="temp_curiosity_boost.")
    restless: float | None = Field(default=None, description="temp_restless_drop.")
    melancholy: float | None = Field(default=None, description="temp_melancholy_noise.")
    conf_strength: float | None = Field(default=None, description="conf_feedback_strength.")
    smoothing_factor: float | None = Field(default=None, description="temp_smoothing_factor.")


class LifecycleArguments(Arguments):
    """How a life is counted; what is left out stays."""

    capacity: float | None = Field(default=None, description="lifecycle_capacity_factor.")
    curve: Literal["sigmoid_linear", "exponential"] | None = Field(
        default=None, description="lifecycle_curve."
    )


class BlendArguments(Arguments):
    """How strong and how random; what is left out stays."""

    weight: float | None = Field(default=None, description="scaffold_weight_cap.")
    temp: float | None = Field(default=None, description="base_temperature.")


class CapacityArguments(Arguments):
    """What there is to fill with a life."""

    parameters: int = Field(ge=1, description="Trainable parameters of the adapters.")


class DocumentArguments(Arguments):
    """A mind as `mind_document` gave it; none for one that is born now."""

    document: dict[str, Any] | None = None


class DreamtArguments(Arguments):
    """A dream and the questions that it raised."""

    name: str
    questions: list[str]


class QuestionArguments(Arguments):
    """A question that came to mind, blank for none."""

    question: str = ""


class NightArguments(Arguments):
    """The question that a night raised; `foretell` asks what it would be, and changes nothing."""

    question: str = ""
    foretell: bool = False


class AsleepArguments(Arguments):
    """Whether it sleeps from now on."""

    asleep: bool


_TEMP = Knobs(
    "Temperament params",
    "controls_config",
    {
        "eager": "temp_eager_threshold",
        "sluggish": "temp_sluggish_threshold",
        "influence": "temp_mood_influence",
        "curiosity": "temp_curiosity_boost",
        "restless": "temp_restless_drop",
        "melancholy": "temp_melancholy_noise",
        "conf_strength": "conf_feedback_strength",
        "smoothing_factor": "temp_smoothing_factor",
    },
    {
        "influence": "mood_influence",
        "curiosity": "curiosity_boost",
        "restless": "restless_drop",
        "melancholy": "melancholy_noise",
        "conf_strength": "conf_feedback_strength",
    },
)
_LIFECYCLE = Knobs(
    "Lifecycle params",
    "training_config",
    {"capacity": "lifecycle_capacity_factor", "curve": "lifecycle_curve"},
    {"capacity": "capacity_factor"},
)
_BLEND = Knobs(
    "Global blend",
    "controls_config",
    {"weight": "scaffold_weight_cap", "temp": "base_temperature"},
    {"weight": "weight_cap", "temp": "base_temp"},
)


class MindKeeper(Agent):
    """Holds the mind, writes it down after each change, and tells everybody."""

    name: ClassVar[str] = "mind"
    critical: ClassVar[bool] = True
    topics: ClassVar[tuple[str, ...]] = (INTERACTION, ANSWERING)

    async def start(self) -> None:
        """Read what was written down. Raises FatalError where it cannot be understood."""
        self._file = self.paths.state_dir / "mind.json"
        self._dry = self.settings.training_config.dry_run
        self._parameters = 0
        self._spoken_at = time.monotonic()
        await anyio.to_thread.run_sync(sweep, self.paths.state_dir)
        read = partial(anyio.to_thread.run_sync, self._read)
        self._mind = await self.hindrance.outlast(read)
        # Whoever slept when the daemon ended is awake now.
        await self._become(self._mind.woke() if self._mind.asleep else self._mind)

    async def run(self) -> None:
        """Feel the silence."""
        while True:
            await anyio.sleep(_TICK_S)
            silent = time.monotonic() - self._spoken_at >= _TICK_S
            if silent and not self._mind.asleep and self._mind.pressure.value < 1:
                await self._become(self._mind.waited(_TICK_S), durable=False)

    async def on_settings(self, before: Settings) -> None:
        """The same mind may be called otherwise by other knobs."""
        await self._tell()

    async def on_event(self, event: Envelope) -> None:
        """Take in what was lived."""
        if isinstance(event.payload, AnswerStarted):
            self._spoken_at = time.monotonic()
        elif isinstance(event.payload, InteractionRecorded):
            self._spoken_at = time.monotonic()
            confidence = event.payload.confidence
            await self._become(
                self._mind.answered(
                    NEUTRAL if confidence is None else confidence,
                    unseen=event.payload.unseen,
                    capacity=self._capacity(),
                    knobs=self.settings.controls_config,
                    training=self.settings.training_config,
                )
            )

    # For people

    @command()
    async def mind(self, args: NoArguments, job: Job) -> dict[str, Any]:
        """Show confidence, temperament, age and what it dreamt and wonders."""
        state = self._state().model_dump(mode="json")
        return {"text": _described(self._state()), **state}

    @command(TempArguments)
    async def temp(self, args: TempArguments, job: Job) -> dict[str, Any]:
        """Tune the temperament, or show how it is tuned."""
        return await _TEMP.turn(self, args)

    @command(LifecycleArguments)
    async def lifecycle(self, args: LifecycleArguments, job: Job) -> dict[str, Any]:
        """Tune how a life is counted, or show it."""
        return await _LIFECYCLE.turn(self, args)

    @command(BlendArguments)
    async def blend(self, args: BlendArguments, job: Job) -> dict[str, Any]:
        """Set the cap on the scaffold's weight and the base temperature, or show them."""
        return await _BLEND.turn(self, args)

    # For other agents

    @command(CapacityArguments, internal=True)
    async def mind_capacity(self, args: CapacityArguments, job: Job) -> dict[str, Any]:
        """Learn how much a life can hold; returns the state."""
        self._parameters = args.parameters
        await self._tell()
        return {"stage": self._stage()}

    @command(internal=True)
    async def mind_document(self, args: NoArguments, job: Job) -> dict[str, Any]:
        """The mind as it is written down."""
        return {"document": self._mind.to_json()}

    @command(DocumentArguments, internal=True)
    async def mind_restore(self, args: DocumentArguments, job: Job) -> dict[str, Any]:
        """Become the mind of a document. Raises CommandError where it cannot be understood."""
        try:
            mind = (
                Mind.born(self.settings.controls_config)
                if args.document is None
                else Mind.from_json(args.document)
            )
        except ValueError as error:
            raise CommandError(BAD_ARGUMENT, str(error)) from None
        await self._become(mind)
        return {}

    @command(DreamtArguments, internal=True)
    async def mind_dreamt(self, args: DreamtArguments, job: Job) -> dict[str, Any]:
        """It dreamt."""
        controls = self.settings.controls_config
        await self._become(self._mind.dreamt(args.name, args.questions, controls))
        return {}

    @command(AsleepArguments, internal=True)
    async def mind_asleep(self, args: AsleepArguments, job: Job) -> dict[str, Any]:
        """It fell asleep, or woke."""
        await self._become(self._mind.fell_asleep() if args.asleep else self._mind.woke())
        return {}

    @command(NightArguments, internal=True)
    async def mind_slept(self, args: NightArguments, job: Job) -> dict[str, Any]:
        """A night, or a training, is kept; returns the mind as it is written down then."""
        training = self.settings.training_config
        after = self._mind.slept(args.question, capacity=self._capacity(), training=training)
        if not args.foretell:
            await self._become(after)
        return {"document": after.to_json()}

    @command(QuestionArguments, internal=True)
    async def mind_erupted(self, args: QuestionArguments, job: Job) -> dict[str, Any]:
        """Its curiosity erupted; returns the question it asks, None if it has none."""
        question, mind = self._mind.erupted(args.question).asked()
        await self._become(mind)
        return {"question": question}

    async def _become(self, mind: Mind, *, durable: bool = True) -> None:
        self._mind = mind
        if durable:
            async with self.hindrance.met():
                await self.try_to_write()
        await self._tell()

    async def try_to_write(self) -> None:
        """Write the mind down as it is now."""
        if not self._dry:
            await anyio.to_thread.run_sync(self._write)

    async def _tell(self) -> None:
        await self.publish(MIND, self._state(), retain=True)

    def _read(self) -> Mind:
        if self._dry or not self._file.exists():
            return Mind.born(self.settings.controls_config)
        try:
            if not self._file.is_file():  # to open a pipe would never end
                raise ValueError("not a regular file")
            return Mind.from_json(json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            if condition_of(error) is not None:
                raise
            raise FatalError(
                f"{self._file}: {error}; move it away to begin with the last saved mind"
            ) from None

    def _write(self) -> None:
        with replacing(self._file) as file:
            file.write(json.dumps(self._mind.to_json()).encode())

    def _capacity(self) -> float:
        """Without end until the generator has told what there is to fill."""
        if not self._parameters:
            return math.inf
        return capacity(self._parameters, self.settings.training_config)

    def _stage(self) -> float:
        return stage(self._mind.exposure, self._capacity())

    def _state(self) -> MindState:
        mind, knobs = self._mind, self.settings.controls_config
        shares = mind.dream_memory.blending(knobs)
        dreams = zip(mind.dream_memory.dreams, shares, strict=True)
        return MindState(
            confidence=mind.confidence(knobs),
            temperament=mind.score(knobs),
            mood=mood(mind.score(knobs), knobs),
            pressure=mind.pressure.value,
            exposure=mind.exposure,
            stage=self._stage(),
            influence=mind.influence(knobs),
            asleep=mind.asleep,
            has_woken=mind.has_woken or knobs.has_woken,
            nights=mind.nights,
            dreams=tuple(DreamKept(name=dream.content, share=share) for dream, share in dreams),
            questions=mind.questions.questions,
            dream_reason=mind.dream_reason(knobs),
        )


def _described(state: MindState) -> str:
    confidence = "unknown" if state.confidence is None else f"{state.confidence:.2f}"
    lines = [
        f"{'Asleep' if state.asleep else 'Awake'}, {state.mood} ({state.temperament:+.2f}), "
        f"confidence {confidence}, urge to ask {state.pressure:.2f}",
        f"Data exposure: {state.exposure} | Scaffold influence: {state.influence:.3f} | "
        f"{state.stage:.1%} of its life, {state.nights} nights, {len(state.dreams)} dreams kept",
        *(f"It wonders: {question}" for question in state.questions),
    ]
    return "\n".join(lines)
