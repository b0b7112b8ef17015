"""Curiosity: asks a question of its own when it is quiet and the urge is high."""

from __future__ import annotations

import math
import random
import time
from typing import Any, ClassVar

import anyio

from agents.base import Agent
from bus.envelope import Envelope
from bus.errors import CommandError
from bus.topics import ANSWERING, INTERACTION, MIND, QUESTION, WORDS, MindState, Question, Words
from sovl_daemon.mind.curiosity import Pressure, curiosity, question_temperature, worth_asking
from sovl_daemon.mind.wake import WakeOptions, wakes

_TICK_S = 1.0


class Curiosity(Agent):
    """Wonders about what was lived. It waits for an answer before it asks again."""

    name: ClassVar[str] = "curiosity"
    topics: ClassVar[tuple[str, ...]] = (MIND, ANSWERING, INTERACTION)

    async def start(self) -> None:
        """Begin in silence."""
        self._chance = random.Random(self.settings.core_config.random_seed)  # noqa: S311 - a mood
        self._state: MindState | None = None
        self._known = anyio.Event()
        self._spoken_at = time.monotonic()
        self._erupted_at = -math.inf
        self._unanswered = False

    async def run(self) -> None:
        """Say the first words of a life, then wonder."""
        await self._known.wait()
        assert self._state is not None  # noqa: S101 - known
        if wakes(self._state.has_woken, self.settings.controls_config):
            await self._first_words()
        while True:
            await anyio.sleep(_TICK_S)
            if self._erupts():
                await self._wonder()

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind and the talk."""
        if isinstance(event.payload, MindState):
            self._state = event.payload
            self._known.set()
        else:
            self._spoken_at = time.monotonic()
            self._unanswered = False

    def stats(self) -> dict[str, Any]:
        """Whether a question of its own waits for an answer."""
        return {"waits_for_an_answer": self._unanswered} if self.state == "ready" else {}

    async def _first_words(self) -> None:
        options = WakeOptions()
        try:
            said = await self.ask(
                "wonder",
                prompt="",
                temperature=options.temperature,
                top_k=options.top_k,
                max_tokens=options.max_tokens,
            )
        except CommandError as error:
            self.log.warning("curiosity.speechless", reason=error.message)
            return
        self.log.info("mind.first_words", text=said["text"])
        await self.publish(WORDS, Words(text=said["text"]))
        await self.ask("mind_asleep", asleep=False)

    def _erupts(self) -> bool:
        if self._state is None or self._state.asleep or self._unanswered:
            return False
        now = time.monotonic()
        return Pressure(self._state.pressure).erupts(
            self._chance,
            silence_s=now - self._spoken_at,
            since_eruption_s=now - self._erupted_at,
        )

    async def _wonder(self) -> None:
        """Ask what waits to be asked, or what comes to mind if it is strange enough."""
        assert self._state is not None  # noqa: S101 - it erupted
        self._erupted_at = time.monotonic()
        try:
            thought = await self.ask(
                "wonder", prompt=None, temperature=question_temperature(self._state.temperament)
            )
            score = curiosity([thought["confidence"]], thought["similarities"])
            new = thought["text"] if worth_asking(score, unprompted=True) else ""
            question = (await self.ask("mind_erupted", question=new))["question"]
        except CommandError as error:
            self.log.warning("curiosity.speechless", reason=error.message)
            return
        if question is not None:
            self._unanswered = True
            self.log.info("curiosity.asked", text=question, score=round(score, 3))
            await self.publish(QUESTION, Question(text=question, reason="unprompted"))
