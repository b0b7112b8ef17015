"""The dreamer: relives an interaction, remembers it blurred, and wonders about it."""

from __future__ import annotations

import random
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, ClassVar

import anyio

from agents.base import Agent, Job
from agents.gate import Gate
from agents.knobs import Knobs
from agents.recall import recalled
from agents.shared_engine import shared_engine
from bus.commands import command
from bus.envelope import Envelope
from bus.errors import BAD_ARGUMENT, ENGINE, CommandError
from bus.topics import ANSWERING, DREAM, INTERACTION, MIND, AnswerStarted, Dreamt, MindState
from config import Settings
from sovl_daemon.contracts.dreamer import DreamerStats, DreamNow, DreamReport, Thought, Wonder
from sovl_daemon.contracts.mind import NoteDream
from sovl_daemon.contracts.scribe import RecentInteractions
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.thread.tensor_thread import Priority
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.mind.confidence import answer_confidence
from sovl_daemon.mind.curiosity import QUESTION_TOKENS, question_temperature
from sovl_daemon.mind.dreams import QUESTIONS_A_DREAM, choice_weights, choose, noise
from sovl_daemon.mind.similarity import similarities

if TYPE_CHECKING:
    import torch


_TICK_S = 1.0
_QUIET_S = 5.0  # nobody wants to be talked over
_RECENT = 50  # interactions it may dream of
_TOLD = 1000  # characters of a prompt that it tells it dreamt of
_FIRST_WORDS = "You wake up for the first time. What are your first words?"
_ASK = 'Ask one short question about this: "{about}"'

_DREAM = Knobs(
    "Dream params",
    "controls_config",
    {
        "swing": "dream_swing_var",
        "delta": "dream_lifecycle_delta",
        "temp_on": "dream_temperament_on",
        "noise": "dream_noise_scale",
        "mem_weight": "dream_memory_weight",
        "mem_maxlen": "dream_memory_maxlen",
        "prompt_weight": "dream_prompt_weight",
        "novelty_boost": "dream_novelty_boost",
        "memory_decay": "dream_memory_decay",
        "prune_threshold": "dream_prune_threshold",
    },
    {
        "swing": "swing_var",
        "delta": "lifecycle_delta",
        "temp_on": "temperament_on",
        "noise": "noise_scale",
        "mem_weight": "memory_weight",
        "mem_maxlen": "memory_maxlen",
    },
)


class Dreamer(Agent):
    """Dreams when confidence swings or the temperament moves, and on demand. In the model host."""

    name: ClassVar[str] = "dreamer"
    home: ClassVar[str] = "host"
    topics: ClassVar[tuple[str, ...]] = (MIND, ANSWERING, INTERACTION)

    async def start(self) -> None:
        """Begin with nothing dreamt."""
        self._rng = random.Random(self.settings.core_config.random_seed)  # noqa: S311 - a dream
        self._state: MindState | None = None
        self._spoken_at = time.monotonic()
        self._hidden: dict[str, torch.Tensor] = {}
        self._kept: list[tuple[str, float]] = []
        self._blended: list[tuple[str, float]] = []
        self._dreaming = anyio.Lock()
        self._gate = Gate(self, "a dream")

    async def run(self) -> None:
        """Dream when there is reason and quiet; hold the scaffold's context to what is dreamt."""
        await shared_engine.fused()
        while True:
            await anyio.sleep(_TICK_S)
            if self._state is None:
                continue
            quiet = time.monotonic() - self._spoken_at >= _QUIET_S
            if self._state.dream_reason and quiet and not await self._gate.objection():
                await self._dream(self._state.dream_reason)
            await self._blend(self._state)

    async def on_settings(self, before: Settings) -> None:
        """Dream by another seed where it was changed."""
        seed = self.settings.core_config.random_seed
        if seed != before.core_config.random_seed:
            self._rng = random.Random(seed)  # noqa: S311 - a dream

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind and the talk."""
        if isinstance(event.payload, MindState):
            self._state = event.payload
        elif isinstance(event.payload, AnswerStarted) or event.topic == INTERACTION:
            self._spoken_at = time.monotonic()

    @command(DreamNow, long=True)
    async def dream(self, request: DreamNow, job: Job) -> DreamReport:
        """Dream now; with numbers, tune how it dreams."""
        if not request.model_dump(exclude_none=True, exclude={"force"}):
            await self._gate.passed(job, force=request.force)
            return await self._dream("asked")
        return await _DREAM.turn(self, request)

    @command(Wonder, internal=True, long=True)
    async def wonder(self, request: Wonder, job: Job) -> Thought:
        """Think aloud: the first words of a life, or a question about something lived."""
        about = request.prompt
        if about is None:
            lived = await self._recent()
            about = self._rng.choice(lived).prompt if lived else "what people do all day"
        options = SamplingOptions(
            temperature=request.temperature,
            top_k=request.top_k,
            max_new_tokens=request.max_tokens,
            seed=self._rng.getrandbits(31),
        )
        said = _FIRST_WORDS if about == "" else _ASK.format(about=about)
        text, confidence = await self._say(said, options)
        dreamt = [each.prompt for each in await self._remembered()]
        known = similarities(text, dreamt) if dreamt else []
        return Thought(text=text, confidence=confidence, similarities=known)

    def stats(self) -> DreamerStats:
        """How many dreams the scaffold sees."""
        return DreamerStats(dreams_in_context=len(self._blended))

    async def _dream(self, reason: str) -> DreamReport:
        async with self._dreaming:
            lived = await self._recent()
            if not lived:
                raise CommandError(BAD_ARGUMENT, "there is nothing to dream of yet: talk first")
            knobs = self.settings.controls_config
            prompts = [each.prompt for each in lived]
            weights = choice_weights(similarities(prompts[-1], prompts), knobs)
            chosen = lived[choose(weights, self._rng)]
            kept = {dream.name for dream in self._state.dreams} if self._state else set()
            name = str(chosen.id)
            score = self._state.temperament if self._state else 0.0
            blur = noise(score, name not in kept, knobs)
            engine = await shared_engine.fused()
            hidden = await engine.dream(_scene(chosen), noise=blur, seed=self._rng.getrandbits(31))
            if hidden is not None:
                self._hidden[name] = hidden
            questions = await self._questions(chosen.prompt, score)
            await self.ask(NoteDream(name=name, questions=questions))
            self.log.info("mind.dreamt", reason=reason, interaction=chosen.id, noise=blur)
            event = Dreamt(
                name=name,
                reason=reason,
                prompt=chosen.prompt[:_TOLD],
                noise=blur,
                questions=tuple(questions),
            )
            await self.publish(DREAM, event)
            told = f"It dreamt of: {chosen.prompt[:_TOLD]}\n" + "\n".join(
                f"It wonders: {question}" for question in questions
            )
            return DreamReport(text=told.rstrip(), interaction=chosen.id, noise=blur)

    async def _questions(self, about: str, score: float) -> list[str]:
        """What it wonders about; the model repeats itself, so there may be fewer than three."""
        found: list[str] = []
        for _ in range(QUESTIONS_A_DREAM):
            options = SamplingOptions(
                temperature=question_temperature(score),
                max_new_tokens=QUESTION_TOKENS,
                seed=self._rng.getrandbits(31),
            )
            try:
                text, _ = await self._say(_ASK.format(about=about), options)
            except CommandError as error:
                self.log.warning("curiosity.speechless", reason=error.message)
                break
            if text.endswith("?") and text not in found:
                found.append(text)
        return found

    async def _say(self, prompt: str, options: SamplingOptions) -> tuple[str, float]:
        """One line that the model says to itself, and how sure it was. Raises CommandError."""
        from sovl_daemon.engine.errors import EngineError

        engine = await shared_engine.fused()
        parts = []
        try:
            generation = engine.generate(
                [Message("user", prompt)], options, priority=Priority.CURIOSITY
            )
            async with aclosing(generation) as pieces:
                async for piece in pieces:
                    parts.append(piece.text)
                    if piece.summary is not None:  # the last piece has one
                        summary = piece.summary
        except EngineError as error:
            raise CommandError(ENGINE, str(error)) from None
        return _first_line("".join(parts)), answer_confidence(summary.probabilities)

    async def _blend(self, state: MindState) -> None:
        """Let the scaffold remember the dreams that are kept, by their shares, if it may."""
        kept = [(dream.name, dream.share) for dream in state.dreams if dream.share > 0]
        wanted = kept if self.settings.controls_config.use_scaffold_memory else []
        if (kept, wanted) == (self._kept, self._blended):
            return
        from sovl_daemon.engine.fusion.fusion import DreamStates

        engine = await shared_engine.fused()
        for scene in await self._remembered(missing=True) if wanted else ():
            hidden = await engine.dream(_scene(scene), noise=0.0, seed=0)
            if hidden is not None:
                self._hidden[str(scene.id)] = hidden
        self._hidden = {n: self._hidden[n] for n, _ in kept if n in self._hidden}
        await engine.remember(
            [DreamStates(self._hidden[n], w) for n, w in wanted if n in self._hidden]
        )
        self._kept, self._blended = kept, wanted

    async def _recent(self) -> list[Interaction]:
        return (await self.ask(RecentInteractions(limit=_RECENT))).interactions

    async def _remembered(self, *, missing: bool = False) -> list[Interaction]:
        """The interactions of the dreams that are remembered, or of those whose states are gone."""
        names = [dream.name for dream in self._state.dreams] if self._state else []
        ids = [int(name) for name in names if not (missing and name in self._hidden)]
        return await recalled(self, ids)


def _scene(interaction: Interaction) -> str:
    return f"{interaction.prompt}\n{interaction.response}"


def _first_line(text: str) -> str:
    """The first question in a text, else its first line, without quotation marks."""
    line = next((line for line in text.strip().splitlines() if line.strip()), "")
    question = line.partition("?")
    return (question[0] + question[1] if question[1] else line).strip(' "')
