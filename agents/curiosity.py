"""Curiosity: asks when it is quiet and the urge is high, and back when it hears strange things."""

from __future__ import annotations

import math
import random
import time
from typing import ClassVar

import anyio

from agents.base import Agent
from agents.recall import recalled
from bus.envelope import Envelope
from bus.errors import CommandError
from bus.topics import (
    ANSWERING,
    INTERACTION,
    MIND,
    QUESTION,
    WORDS,
    AnswerStarted,
    InteractionRecorded,
    MindState,
    Question,
    Words,
)
from sovl_daemon.contracts.curiosity import CuriosityStats
from sovl_daemon.contracts.dreamer import Wonder
from sovl_daemon.contracts.mind import Erupt, NoteSleep
from sovl_daemon.mind.confidence import NEUTRAL
from sovl_daemon.mind.curiosity import (
    COOLDOWN_S,
    CuriosityPressure,
    curiosity,
    question_temperature,
    worth_asking,
)
from sovl_daemon.mind.similarity import similarities
from sovl_daemon.mind.wake import WakeOptions, wakes

_TICK_S = 1.0


class Curiosity(Agent):
    """Wonders about what was lived. It waits for an answer before it asks again."""

    name: ClassVar[str] = "curiosity"
    topics: ClassVar[tuple[str, ...]] = (MIND, ANSWERING, INTERACTION)
    _state: MindState  # there is one as soon as it is `_known`

    async def start(self) -> None:
        """Begin as if somebody had just spoken."""
        self._rng = random.Random(self.settings.core_config.random_seed)  # noqa: S311 - a mood
        self._known = anyio.Event()
        self._spoken_at = time.monotonic()
        self._erupted_at = -math.inf
        self._unanswered = False
        self._heard: InteractionRecorded | None = None
        self._thought = anyio.CancelScope()

    async def run(self) -> None:
        """Say the first words of a life, then wonder."""
        await self._known.wait()
        if wakes(self._state.has_woken, self.settings.controls_config):
            await self._first_words()
        while True:
            await anyio.sleep(_TICK_S)
            heard, self._heard = self._heard, None
            if heard is not None and self._listens():
                await self._ask_back(heard)
            elif self._erupts():
                await self._wonder()

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind and the talk."""
        if isinstance(event.payload, MindState):
            self._state = event.payload
            self._known.set()
            return
        self._spoken_at = time.monotonic()
        self._unanswered = False
        if isinstance(event.payload, InteractionRecorded):
            self._heard = event.payload
        elif isinstance(event.payload, AnswerStarted):
            self._heard = None
            self._thought.cancel()  # nobody wants to be talked over, or to wait for a thought

    def stats(self) -> CuriosityStats:
        """Whether a question of its own waits for an answer."""
        return CuriosityStats(waits_for_an_answer=self._unanswered)

    async def _first_words(self) -> None:
        options = WakeOptions()
        try:
            said = await self.ask(
                Wonder(
                    prompt="",
                    temperature=options.temperature,
                    top_k=options.top_k,
                    max_tokens=options.max_tokens,
                )
            )
        except CommandError as error:
            self.log.warning("curiosity.speechless", reason=error.message)
            return
        self.log.info("mind.first_words", text=said.text)
        await self.publish(WORDS, Words(text=said.text))
        await self.ask(NoteSleep(asleep=False))

    def _erupts(self) -> bool:
        if self._state.asleep or self._unanswered:
            return False
        now = time.monotonic()
        return CuriosityPressure(self._state.pressure).erupts(
            self._rng,
            silence_s=now - self._spoken_at,
            since_eruption_s=now - self._erupted_at,
        )

    async def _wonder(self) -> None:
        """Ask what waits to be asked, or what comes to mind if it is strange enough."""
        self._erupted_at = time.monotonic()
        try:
            temperature = question_temperature(self._state.temperament)
            thought = await self.ask(Wonder(prompt=None, temperature=temperature))
            score = curiosity([thought.confidence], thought.similarities)
            new = thought.text if worth_asking(score, unprompted=True) else ""
            question = (await self.ask(Erupt(question=new))).question
        except CommandError as error:
            self.log.warning("curiosity.speechless", reason=error.message)
            return
        if question is not None:
            await self._put(Question(text=question, reason="unprompted"), score)

    def _listens(self) -> bool:
        """Whether it may ask back; where no confidence is tracked nobody knows what is strange."""
        tracked = self.settings.controls_config.enable_confidence_tracking
        return (
            not self._state.asleep and tracked and time.monotonic() - self._erupted_at >= COOLDOWN_S
        )

    async def _ask_back(self, heard: InteractionRecorded) -> None:
        """Ask about what was just said, if it is strange enough and nobody talks on meanwhile."""
        confidence = NEUTRAL if heard.confidence is None else heard.confidence
        if not worth_asking(curiosity([confidence], []), unprompted=False):
            return  # not even if it is like no dream
        with anyio.CancelScope() as self._thought:
            try:
                dreams = [int(dream.name) for dream in self._state.dreams]
                found = await recalled(self, [heard.interaction, *dreams])
                prompts = {each.id: each.prompt for each in found}
                prompt = prompts[heard.interaction]
                dreamt = [prompts[each] for each in dreams if each in prompts]
                score = curiosity([confidence], similarities(prompt, dreamt))
                if not worth_asking(score, unprompted=False):
                    return
                self._erupted_at = time.monotonic()
                temperature = question_temperature(self._state.temperament)
                thought = await self.ask(Wonder(prompt=prompt, temperature=temperature))
                if thought.text:
                    asked = Question(
                        text=thought.text, reason="reply", conversation=heard.conversation
                    )
                    await self._put(asked, score)
            except CommandError as error:
                self.log.warning("curiosity.speechless", reason=error.message)

    async def _put(self, question: Question, score: float) -> None:
        self._unanswered = True
        self.log.info(
            "curiosity.asked", text=question.text, reason=question.reason, score=round(score, 3)
        )
        await self.publish(QUESTION, question)
