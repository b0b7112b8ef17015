"""Gestation: decides when to sleep and when to wake; the trainer learns meanwhile."""

from __future__ import annotations

import time
from typing import ClassVar

import anyio

from agents.base import Agent, Job
from agents.gate import Gate
from agents.knobs import Knobs
from bus.commands import command
from bus.envelope import Envelope
from bus.errors import AGENT_LOST, BUSY, CANCELLED, CommandError
from bus.topics import ANSWERING, INTERACTION, MIND, NIGHT, AnswerStarted, MindState, NightStep
from sovl_daemon.contracts.gestation import (
    Gestate,
    GestationStats,
    HoldNights,
    NightHold,
    NightReport,
    TunedSleep,
    TuneSleep,
    Wake,
    Woken,
)
from sovl_daemon.contracts.mind import NoteSleep
from sovl_daemon.contracts.scribe import Unlearned
from sovl_daemon.contracts.trainer import HoldTraining, LearnNight, NightLearned
from sovl_daemon.mind.sleep import Rhythm, WakeReason, longest_night, sleep_reason, tiredness
from sovl_daemon.own_time import OwnTime, move_on_after

_TICK_S = 1.0
_RISE_S = 2.0
_KEPT = "what the night had learned up to its last checkpoint is kept, the next one goes on there"

_SLEEP = Knobs(
    "Sleep params",
    "controls_config",
    {"conf": "sleep_conf_threshold", "time": "sleep_time_factor", "log": "sleep_log_min"},
    {"time": "time_factor", "log": "log_min"},
)


class Gestation(Agent):
    """Puts the mind to sleep when it is ready or tired, and wakes it when somebody speaks."""

    name: ClassVar[str] = "gestation"
    topics: ClassVar[tuple[str, ...]] = (MIND, INTERACTION, ANSWERING)

    async def start(self) -> None:
        """Count what there is to learn."""
        self._rhythm = Rhythm(time.monotonic())
        self._state: MindState | None = None
        self._entries = 0
        self._night: anyio.CancelScope | None = None
        self._called = self._held = False
        self._night_over = anyio.Event()
        self._gate = Gate(self, "a night")

    async def run(self) -> None:
        """Look each second whether it is time to sleep."""
        await self._count()
        if self.settings.controls_config.is_sleeping and not await self._gate.objection():
            await self._sleep("asleep")
        while True:
            await anyio.sleep(_TICK_S)
            if self._held:  # a trainer that was started anew knows of nothing
                try:
                    await self.ask(HoldTraining(hold=True))
                except CommandError as error:
                    self.log.debug("training.not_held", reason=error.message)
            reason = None if self._night is not None else self._reason()
            if reason is not None and not await self._gate.objection():
                await self._sleep(reason)

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind; somebody who speaks wakes it."""
        match event.payload:
            case MindState() as state:
                self._state = state
            case AnswerStarted():
                self._wake()
        if event.topic == INTERACTION:
            self._entries += 1

    @command(TuneSleep)
    async def sleep(self, request: TuneSleep, job: Job) -> TunedSleep:
        """Tune when it sleeps, or show it; `gestate` sends it to sleep."""
        return await _SLEEP.turn(self, request)

    @command(Gestate, long=True)
    async def gestate(self, request: Gestate, job: Job) -> NightReport:
        """Sleep now, learn what was lived through, and wake."""
        if self._night is not None:
            raise CommandError(BUSY, "it sleeps already: wait, or say `wake`")
        if self._held:
            raise CommandError(BUSY, "nights are held back; see: sovl actions list")
        await self._gate.passed(job, force=request.force)
        await self._count()
        return await self._sleep("asked", job)

    @command(Wake)
    async def wake(self, request: Wake, job: Job) -> Woken:
        """Wake it; what the night has learned so far is kept for the next one."""
        asleep = self._night is not None
        self._wake()
        return Woken(text="Woken" if asleep else "It is awake", was_asleep=asleep)

    @command(HoldNights, internal=True)
    async def hold_nights(self, request: HoldNights, job: Job) -> NightHold:
        """Hold training and nights back, the present ones too, or let them come."""
        if request.hold is not None:
            self._held = request.hold
        if self._held:
            self._wake()
        training = await self.ask(HoldTraining(hold=request.hold))
        if request.hold and self._night is not None:
            await self._night_over.wait()
        return NightHold(
            held=self._held and training.held,
            busy=self._night is not None or training.training,
            asleep=self._night is not None,
            entries=self._entries,
            entries_needed=self.settings.controls_config.sleep_log_min,
        )

    def _wake(self) -> None:
        if self._night is not None:
            self._called = True
            self._night.cancel()

    def stats(self) -> GestationStats:
        """What there is to learn, how tired it is, and whether nights are held back."""
        return GestationStats(
            entries=self._entries,
            entries_needed=self.settings.controls_config.sleep_log_min,
            tiredness=round(self._tiredness(), 3),
            held=self._held,
        )

    def _tiredness(self) -> float:
        now = time.monotonic()
        confidence = self._state.confidence if self._state else None
        stage = self._state.stage if self._state else 0.0
        knobs = self.settings.controls_config
        return tiredness(self._entries, confidence, self._rhythm.awake_s(now), stage, knobs)

    def _reason(self) -> str | None:
        if self._state is None or self._held:
            return None
        return sleep_reason(
            self._rhythm,
            time.monotonic(),
            entries=self._entries,
            confidence=self._state.confidence,
            stage=self._state.stage,
            knobs=self.settings.controls_config,
        )

    async def _sleep(self, reason: str, job: Job | None = None) -> NightReport:
        """Sleep a night; returns what came of it."""
        self._called, self._night_over = False, anyio.Event()
        entries = self._entries
        self._rhythm = self._rhythm.fell_asleep(time.monotonic())
        self.log.info("night.started", reason=reason, entries=entries)
        await self.publish(f"{NIGHT}.started", NightStep(reason=reason, entries=entries))
        await self.ask(NoteSleep(asleep=True))
        woke: WakeReason = "called"
        result = NightLearned()
        try:
            with anyio.CancelScope() as self._night:
                result = await self._learn(job)
                woke = "rested"
        except CommandError as error:
            woke = "called" if error.code == CANCELLED else "failed"
            result = NightLearned(reason=error.message)
            if job is not None and not self._called:
                if error.code != AGENT_LOST:
                    raise
                told = f"{error.message}; {_KEPT}"
                raise CommandError(error.code, told, error.detail) from None
        finally:
            self._night = None
            self._night_over.set()
            # Not for ever: when the daemon ends, those it asks may be gone already.
            with move_on_after(_RISE_S, OwnTime(), shield=True) as rising:
                self._rhythm = self._rhythm.woke(time.monotonic(), woke)
                await self.ask(NoteSleep(asleep=False))
                await self._count()
                self.log.info("night.ended", woke=woke, **result.wire())
                ended = NightStep(reason=woke, entries=entries, learned=result.learned)
                await self.publish(f"{NIGHT}.ended", ended)
            if rising.cancelled_caught:
                self.log.warning("night.unfinished", woke=woke, **result.wire())
        if woke == "rested":
            text = f"Awake again: {result.text or result.reason or 'rested'}"
        else:
            kept = result.reason or "what was learned so far is kept"
            text = f"Woken early ({woke}): {kept}"
        return NightReport(**{**result.wire(), "text": text, "woke": woke})

    async def _learn(self, job: Job | None) -> NightLearned:
        knobs = self.settings.controls_config
        if not knobs.enable_sleep_training:
            await anyio.sleep(longest_night(self._entries, knobs))
            return NightLearned(reason="controls_config.enable_sleep_training is off", learned=0)
        request = LearnNight(seconds=longest_night(self._entries, knobs))
        async with self._link.caller.call(request.command_name, request.wire()) as call:
            async for step in call:
                if job is not None:
                    job.progress(**step)
            return request.read(await call.result())

    async def _count(self) -> None:
        self._entries = (await self.ask(Unlearned(limit=0))).count
