"""The mind's numbers: what every answer, dream and night makes of them."""

from __future__ import annotations

import json
import math
import time
from functools import partial
from typing import ClassVar

import anyio
import anyio.to_thread

from agents.base import Agent, Job
from agents.knobs import Knobs
from bus.commands import Done, command
from bus.envelope import Envelope
from bus.errors import FatalError
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
from sovl_daemon.contracts.mind import (
    BecomeMind,
    Erupt,
    MindRead,
    MindReport,
    NextQuestion,
    NoteCapacity,
    NoteDream,
    NoteNight,
    NoteSleep,
    ReadMind,
    ShowMind,
    TuneBlend,
    TunedBlend,
    TunedLifecycle,
    TunedTemperament,
    TuneLifecycle,
    TuneTemperament,
)
from sovl_daemon.durable import replacing, sweep
from sovl_daemon.mind.confidence import NEUTRAL
from sovl_daemon.mind.lifecycle import capacity, stage
from sovl_daemon.mind.state import Mind
from sovl_daemon.mind.temperament import mood

_TICK_S = 1.0


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
        """Let the urge to ask grow by each second of silence."""
        while True:
            await anyio.sleep(_TICK_S)
            silent = time.monotonic() - self._spoken_at >= _TICK_S
            if silent and not self._mind.asleep and self._mind.pressure.value < 1:
                await self._become(self._mind.waited(_TICK_S), durable=False)

    async def on_settings(self, before: Settings) -> None:
        """Tell the mind's state anew: other knobs may call it otherwise."""
        await self._tell()

    async def on_event(self, event: Envelope) -> None:
        """Grow by an answer; who speaks breaks the silence."""
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

    @command(ShowMind)
    async def mind(self, request: ShowMind, job: Job) -> MindReport:
        """Show confidence, temperament, age and what it dreamt and wonders."""
        state = self._state()
        confidence = "unknown" if state.confidence is None else f"{state.confidence:.2f}"
        lines = [
            f"{'Asleep' if state.asleep else 'Awake'}, {state.mood} ({state.temperament:+.2f}), "
            f"confidence {confidence}, urge to ask {state.pressure:.2f}",
            f"Data exposure: {state.exposure} | Scaffold influence: {state.influence:.3f} | "
            f"{state.stage:.1%} of its life, {state.nights} nights, "
            f"{len(state.dreams)} dreams kept",
            *(f"It wonders: {question}" for question in state.questions),
        ]
        return MindReport(text="\n".join(lines), **dict(state))

    @command(TuneTemperament)
    async def temp(self, request: TuneTemperament, job: Job) -> TunedTemperament:
        """Tune the temperament, or show how it is tuned."""
        return await _TEMP.turn(self, request)

    @command(TuneLifecycle)
    async def lifecycle(self, request: TuneLifecycle, job: Job) -> TunedLifecycle:
        """Tune how a life is counted, or show it."""
        return await _LIFECYCLE.turn(self, request)

    @command(TuneBlend)
    async def blend(self, request: TuneBlend, job: Job) -> TunedBlend:
        """Set the cap on the scaffold's weight and the base temperature, or show them."""
        return await _BLEND.turn(self, request)

    # For other agents

    @command(NoteCapacity, internal=True)
    async def mind_capacity(self, request: NoteCapacity, job: Job) -> Done:
        """Learn how much a life can hold."""
        self._parameters = request.parameters
        await self._tell()
        return Done()

    @command(ReadMind, internal=True)
    async def mind_document(self, request: ReadMind, job: Job) -> MindRead:
        """Return all that is kept of the mind."""
        return MindRead(mind=self._mind)

    @command(BecomeMind, internal=True)
    async def mind_restore(self, request: BecomeMind, job: Job) -> Done:
        """Become another mind, or a new-born one."""
        await self._become(request.mind or Mind.born(self.settings.controls_config))
        return Done()

    @command(NoteDream, internal=True)
    async def mind_dreamt(self, request: NoteDream, job: Job) -> Done:
        """Remember a dream, and wonder what it raised."""
        controls = self.settings.controls_config
        await self._become(self._mind.dreamt(request.name, request.questions, controls))
        return Done()

    @command(NoteSleep, internal=True)
    async def mind_asleep(self, request: NoteSleep, job: Job) -> Done:
        """Fall asleep, or wake."""
        await self._become(self._mind.fell_asleep() if request.asleep else self._mind.woke())
        return Done()

    @command(NoteNight, internal=True)
    async def mind_slept(self, request: NoteNight, job: Job) -> MindRead:
        """Grow by a night or training that is kept; returns the mind as it is then."""
        training = self.settings.training_config
        after = self._mind.slept(request.question, capacity=self._capacity(), training=training)
        if not request.foretell:
            await self._become(after)
        return MindRead(mind=after)

    @command(Erupt, internal=True)
    async def mind_erupted(self, request: Erupt, job: Job) -> NextQuestion:
        """Let the urge to ask go; returns the question it asks, None if it has none."""
        question, mind = self._mind.erupted(request.question).asked()
        await self._become(mind)
        return NextQuestion(question=question)

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
            stage=stage(mind.exposure, self._capacity()),
            influence=mind.influence(knobs),
            asleep=mind.asleep,
            has_woken=mind.has_woken or knobs.has_woken,
            nights=mind.nights,
            dreams=tuple(DreamKept(name=dream.content, share=share) for dream, share in dreams),
            questions=mind.questions.questions,
            dream_reason=mind.dream_reason(knobs),
        )
