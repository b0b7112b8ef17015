"""The generator: answers prompts with the base model, token by token."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.from_thread
import anyio.to_thread

from agents.base import Agent, Job
from agents.generator import architecture
from agents.generator.meter import Meter
from agents.generator.tuning import PULL_AGAIN_S, Tuning
from agents.shared_engine import shared_engine
from bus.commands import Done, command
from bus.envelope import new_id
from bus.errors import BAD_ARGUMENT, ENGINE, UNAVAILABLE, CommandError, FatalError
from bus.topics import ANSWERING, GAUGES, AnswerStarted, GaugesGiven
from config import Paths, Settings
from sovl_daemon.contracts.generator import (
    AnswerGiven,
    BaseDigests,
    DigestBase,
    EngineUsage,
    Generate,
    ReadUsage,
    Reclaim,
)
from sovl_daemon.contracts.scribe import Context, RecordInteraction
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message
from sovl_daemon.heavy_imports import heavy_imports
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.mind.confidence import answer_confidence
from sovl_daemon.mind.temperament import sampling_temperature
from sovl_daemon.models import ModelError, ModelStore, StageProgress
from sovl_daemon.opened import Mapped
from sovl_daemon.own_time import OwnTime

if TYPE_CHECKING:  # torch is loaded in `start`, so that the hub can import this module
    from sovl_daemon.engine.engine import Engine
    from sovl_daemon.engine.serving.answer_stream import Summary

_GAUGES_EVERY_S = 1.0
REPORT_S = 0.5  # how often the progress of loading is told


class Generator(Tuning):
    """Owns the engine. Runs in the model host."""

    name: ClassVar[str] = "generator"
    home: ClassVar[str] = "host"
    critical: ClassVar[bool] = True

    _waver = random.Random()  # noqa: S311 - how a melancholic mood wavers
    _looked = _step_own_s = 0.0

    def __init__(self, settings: Settings, paths: Paths, process: str) -> None:
        super().__init__(settings, paths, process)
        self._own_time = OwnTime(every_s=settings.supervision.heartbeat_s)

    async def start(self) -> None:
        """Get the model (pulling it if need be) and load it.

        Raises:
            FatalError: there is none, or a dry run finds that the scaffold does not fit on it.

        """
        self._meter = Meter()
        name = self.settings.core_config.base_model_name
        await self.say(f"preparing {name}")
        reporter = _Reporter(self)
        store = ModelStore(self.paths.model_dir)
        try:
            resolve = partial(store.resolve, name, reporter.progress)
            find = partial(anyio.to_thread.run_sync, resolve)
            path = await self.hindrance.outlast(find, longest_s=PULL_AGAIN_S)
            await self.say(f"loading {name}")
            self.engine = await self._load(path)
            await shared_engine.note("base", name, path)
        except ModelError as error:
            raise FatalError(
                f"core_config.base_model_name: {error}; see: sovl model list"
            ) from None
        self.opened = [Mapped(file) for file in path.glob("*.safetensors")]
        await _give_back(self.engine)  # from now on, what lies free in the heap can be given back
        shared_engine.set_loaded(self.engine)
        self.log.info("model.loaded", model=name, **self.engine.info())
        await self.tune(self.settings)
        if architecture.wanted(self.settings):
            await architecture.validate(self)

    async def run(self) -> None:
        """Put the scaffold beside the base, while prompts are answered already; keep count."""
        engine = await shared_engine.loaded()
        if adapted := engine.tokenizer.adaptations:
            await self.say(f"chat: {'; '.join(adapted)}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_count)
            await self.fuse()

    async def _load(self, path: Any) -> Engine:
        await anyio.to_thread.run_sync(_import_engine)  # seconds that must not silence us
        from sovl_daemon.engine.engine import Engine
        from sovl_daemon.engine.errors import EngineError, ModelLoadError

        try:
            return await Engine.load(
                path,
                device=self.settings.host.device,
                threads=self.settings.host.threads,
                context_length=_context_length(self.settings),
                max_concurrent=self.settings.generation.max_concurrent,
            )
        except ModelLoadError as error:
            raise FatalError(f"core_config.base_model_name: {error}") from None
        except EngineError as error:
            raise FatalError(str(error)) from None

    async def stop(self) -> None:
        """End the tensor thread after its current step."""
        shared_engine.withdraw()
        if self.engine is not None:
            await self.engine.close()

    def hangs(self) -> str:
        """Report a tensor step that does not end, so that the hub restarts the host."""
        now, own_s = time.monotonic(), self._own_time()
        step_s = self.engine.stalled_for() if self.engine else 0.0
        if step_s < now - self._looked:  # it has begun since then, if there is one at all
            self._step_own_s = own_s
        self._looked = now
        limit_s = self.settings.host.stall_s
        if own_s - self._step_own_s < limit_s:
            return ""
        return f"was in one tensor step for {limit_s:g} s; what needs longer needs host.stall_s"

    @command(Generate)
    async def generate(self, request: Generate, job: Job) -> AnswerGiven:
        """Answer a prompt, streaming the text as progress."""
        conversation = request.conversation or new_id()
        began = time.monotonic()
        engine = await shared_engine.loaded()
        options = self._checked(engine, request)
        await self.publish(ANSWERING, AnswerStarted(conversation=conversation))
        messages = await self._messages(request.prompt, conversation)
        text, summary, prompt = await self._speak(engine, messages, options, job)
        confidence = answer_confidence(summary.probabilities)
        said = Interaction(
            command=job.id,
            conversation=conversation,
            prompt=request.prompt,
            response=text,
            tokens=summary.generated_tokens,
            confidence=confidence,
        )
        try:
            seconds = time.monotonic() - began
            recorded = await self.ask(RecordInteraction(interaction=said, seconds=seconds))
        except CommandError as error:
            if error.code != UNAVAILABLE:
                raise
            told = f"the answer could not be written down, so it does not count: {error.message}"
            raise CommandError(UNAVAILABLE, told) from None
        await self.lived(prompt, confidence)
        return AnswerGiven(
            text=text,
            conversation=conversation,
            interaction=recorded.interaction,
            finish_reason=summary.finish_reason,
            prompt_tokens=summary.prompt_tokens,
            cached_tokens=summary.cached_tokens,
            tokens=summary.generated_tokens,
            first_token_s=summary.seconds_to_first_token,
            tokens_per_s=round(summary.tokens_per_second, 2),
            confidence=confidence,
            seconds=round(time.monotonic() - began, 3),
        )

    @command(DigestBase, long=True)
    async def fingerprint(self, request: DigestBase, job: Job) -> BaseDigests:
        """Digests by which to see whether the base is, bit for bit, what it was."""
        engine = await shared_engine.loaded()
        return BaseDigests(**(await engine.fingerprint())._asdict())

    @command(ReadUsage, internal=True)
    async def engine_usage(self, request: ReadUsage, job: Job) -> EngineUsage:
        """Count what the engine holds and does now."""
        import torch

        from sovl_daemon.engine.model.allocator import returnable_bytes

        engine = await shared_engine.loaded()
        card = engine.model.device
        return EngineUsage(
            **asdict(engine.usage()),
            pid=os.getpid(),
            free=returnable_bytes(),
            card_bytes=torch.cuda.memory_reserved(card) if card.type == "cuda" else 0,
        )

    @command(Reclaim, internal=True)
    async def reclaim(self, request: Reclaim, job: Job) -> Done:
        """Give free memory back to the system, that of a GPU too."""
        engine = await shared_engine.loaded()
        if request.prefixes:
            await engine.drop_prefixes()
        await _give_back(engine)
        return Done()

    async def _keep_count(self) -> None:
        while True:
            await self._give_gauges()
            await anyio.sleep(_GAUGES_EVERY_S)

    async def _give_gauges(self) -> None:
        engine = await shared_engine.loaded()
        answers = await engine.answer_bytes()
        usage = engine.usage()
        now_s = time.monotonic()
        values = {
            **self._meter.gauges(now_s),
            "queue.depth": float(usage.waiting),
            "kv_cache.bytes": float(usage.prefix_bytes + answers),
        }
        await self.publish(f"{GAUGES}.{self.name}", GaugesGiven(time_s=now_s, values=values))

    async def _messages(self, prompt: str, conversation: str) -> list[Message]:
        """What the model sees: the system prompt, the last messages, and the new prompt.

        What it asked by itself stands before what answers it.
        """
        generation = self.settings.generation
        limit = generation.history_messages // 2
        context = await self.ask(Context(conversation=conversation, limit=limit))
        messages = []
        if generation.system_prompt:
            messages.append(Message("system", generation.system_prompt))
        for each in context.interactions:
            messages = with_question(messages, each.question)
            messages.append(Message("user", each.prompt))
            messages.append(Message("assistant", each.response))
        return [*with_question(messages, context.question), Message("user", prompt)]

    def _checked(self, engine: Engine, request: Generate) -> SamplingOptions:
        """How to answer; what never can be is refused before anybody is woken because of it."""
        from sovl_daemon.engine.errors import EngineError

        try:
            options = self._options(request)
            engine.check([Message("user", request.prompt)], options)
        except EngineError as error:
            raise CommandError(BAD_ARGUMENT, f"prompt: {error}") from None
        return options

    async def _speak(
        self, engine: Engine, messages: list[Message], options: SamplingOptions, job: Job
    ) -> tuple[str, Summary, Sequence[int]]:
        from sovl_daemon.engine.errors import EngineError, OptionError, PromptTooLongError

        parts = []
        try:
            check = self.settings.controls_config.enable_repetition_check
            generation = engine.generate(messages, options, stop_repetition=check)
            async with aclosing(generation) as pieces:
                async for piece in pieces:
                    if piece.text:
                        parts.append(piece.text)
                        job.progress(text=piece.text)
                    if piece.summary is not None:  # the last piece has one
                        summary = piece.summary
        except (OptionError, PromptTooLongError) as error:
            raise CommandError(BAD_ARGUMENT, f"prompt: {error}") from None
        except EngineError as error:
            self._meter.failed(time.monotonic())
            raise CommandError(ENGINE, str(error)) from None
        now_s = time.monotonic()
        tokens = summary.prompt_tokens + summary.generated_tokens
        self._meter.answered(
            now_s,
            summary.generated_tokens,
            summary.seconds_to_first_token,
            tokens / engine.context_length,
        )
        return "".join(parts), summary, generation.prompt

    def _options(self, request: Generate) -> SamplingOptions:
        defaults = self.settings.generation

        def chosen(value: Any, default: Any) -> Any:
            return default if value is None else value

        return SamplingOptions(
            temperature=chosen(request.temperature, self._temperature()),
            top_k=chosen(request.top_k, defaults.top_k),
            top_p=chosen(request.top_p, defaults.top_p),
            seed=chosen(request.seed, defaults.seed),
            max_new_tokens=chosen(request.max_tokens, defaults.max_new_tokens),
        )

    def _temperature(self) -> float:
        """By mood."""
        score = self.mind.temperament if self.mind else 0.0
        return sampling_temperature(score, self.settings.controls_config, self._waver)


def with_question(said: list[Message], question: str | None) -> list[Message]:
    """What was said, and a question of the mind's own; right after an answer it is part of it."""
    if question is None:
        return said
    if said and said[-1].role == "assistant":
        return [*said[:-1], Message("assistant", f"{said[-1].content}\n{question}")]
    return [*said, Message("assistant", question)]


def _context_length(settings: Settings) -> int:
    """A dry run is light: it looks at no more than its `max_length` tokens."""
    dry = settings.training_config
    wanted = settings.generation.context_length
    return min(wanted, dry.dry_run_params.max_length) if dry.dry_run else wanted


def _import_engine() -> None:
    with heavy_imports():
        import sovl_daemon.engine.engine  # noqa: F401 - for its side effect of being loaded


class _Reporter:
    """Passes the progress of a pull from its thread to people, not too often."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._last = 0.0

    def progress(self, step: StageProgress) -> None:
        """Take one report (called in the pulling thread)."""
        now = time.monotonic()
        if now - self._last < REPORT_S and step.done:
            return
        self._last = now
        anyio.from_thread.run(self._agent.say, f"{step.stage} {step.amount()}".rstrip())


async def _give_back(engine: Engine) -> None:
    """Give free memory back to the system."""
    from sovl_daemon.engine.model.allocator import return_free_memory

    gc.collect()
    await anyio.to_thread.run_sync(return_free_memory, engine.model.device)
