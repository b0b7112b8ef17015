"""The generator: answers prompts with the base model, token by token."""

from __future__ import annotations

import gc
import json
import os
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.to_thread

from agents.base import Agent, Job
from agents.gate import Gate
from agents.generator import architecture
from agents.generator.loading import load_base, place_scaffold
from agents.generator.meter import Meter
from agents.generator.prompt import messages_of, options_of
from agents.generator.steering import cross_influence, cross_values, fused_layers
from agents.generator.tuning import MB, Tuning
from agents.shared_engine import shared_engine
from bus.commands import Done, command
from bus.envelope import Envelope, new_id
from bus.errors import BAD_ARGUMENT, ENGINE, UNAVAILABLE, CommandError
from bus.topics import ANSWERING, GAUGES, MIND, AnswerStarted, GaugesGiven, MindState
from config import ConfigError, Paths, Settings, with_value
from sovl_daemon.contracts.generator import (
    AnswerGiven,
    BaseDigests,
    CrossInfluence,
    DigestBase,
    EngineUsage,
    FixLayers,
    FusedLayers,
    Generate,
    GeneratorStats,
    HoldFp16,
    HoldInt4,
    HoldInt8,
    PrecisionHeld,
    ReadUsage,
    Reclaim,
    SelectLayers,
    Tune,
    TuneCross,
)
from sovl_daemon.contracts.mind import NoteCapacity
from sovl_daemon.contracts.scribe import Context, RecordInteraction
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.mind.confidence import answer_confidence
from sovl_daemon.mind.temperament import sampling_temperature
from sovl_daemon.models import ModelError
from sovl_daemon.opened import Mapped
from sovl_daemon.own_time import OwnTime

if TYPE_CHECKING:  # torch is loaded in `start`, so that the hub can import this module
    from sovl_daemon.engine.engine import Engine

_GAUGES_EVERY_S = 1.0


class Generator(Agent):
    """Owns the engine, and holds it to what is configured. Runs in the model host."""

    name: ClassVar[str] = "generator"
    home: ClassVar[str] = "host"
    critical: ClassVar[bool] = True
    topics: ClassVar[tuple[str, ...]] = (MIND,)
    _engine: Engine  # both are there after start
    _tuning: Tuning

    def __init__(self, settings: Settings, paths: Paths, process: str) -> None:
        super().__init__(settings, paths, process)
        self._resources = AsyncExitStack()
        self._meter = Meter()
        self._rng = random.Random()  # noqa: S311 - how a melancholic mood wavers
        self._own_time = OwnTime(every_s=settings.supervision.heartbeat_s)
        self._looked_at = self._step_own_s = 0.0

    async def start(self) -> None:
        """Get the model (pulling it if need be) and load it.

        Raises:
            FatalError: there is none, or a dry run finds that the scaffold does not fit on it.

        """
        self._engine, folder = await load_base(self)
        self._resources.push_async_callback(self._engine.close)
        self.opened = [Mapped(file) for file in folder.glob("*.safetensors")]
        await _give_back(self._engine)  # from now on, what lies free in the heap can be given back
        shared_engine.set_loaded(self._engine)
        model = self.settings.core_config.base_model_name
        self.log.info("model.loaded", model=model, **self._engine.info())
        self._tuning = Tuning(self._engine, self.log)
        await self._tuning.hold(self.settings)
        if architecture.wanted(self.settings):
            await architecture.validate(self, self._engine)

    async def run(self) -> None:
        """Put the scaffold beside the base, while prompts are answered already; keep count."""
        if adapted := self._engine.tokenizer.adaptations:
            await self.say(f"chat: {'; '.join(adapted)}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._fuse)
            while True:
                answers = await self._engine.answer_bytes()
                usage = self._engine.usage()
                now_s = time.monotonic()
                values = {
                    **self._meter.gauges(now_s),
                    "queue.depth": float(usage.waiting),
                    "kv_cache.bytes": float(usage.prefix_bytes + answers),
                }
                given = GaugesGiven(time_s=now_s, values=values)
                await self.publish(f"{GAUGES}.{self.name}", given)
                await anyio.sleep(_GAUGES_EVERY_S)

    async def stop(self) -> None:
        """End the tensor thread after its current step."""
        shared_engine.withdraw()
        await self._resources.aclose()

    def hangs(self) -> str:
        """Report a tensor step that does not end, so that the hub restarts the host."""
        now, own_s = time.monotonic(), self._own_time()
        if shared_engine.stalled_for() < now - self._looked_at:
            self._step_own_s = own_s  # it has begun since then, if there is one at all
        self._looked_at = now
        limit_s = self.settings.host.stall_s
        if own_s - self._step_own_s < limit_s:
            return ""
        return f"was in one tensor step for {limit_s:g} s; what needs longer needs host.stall_s"

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind: its age and mood weigh the scaffold's influence."""
        if isinstance(event.payload, MindState):
            await self._tuning.follow(event.payload, self.settings)

    async def on_settings(self, before: Settings) -> str:
        """Follow settings that changed elsewhere; what the engine refuses is told and logged."""
        return await self._tuning.hold(self.settings)

    def stats(self) -> GeneratorStats:
        """What the engine is really held to."""
        usage = self._engine.usage()
        return GeneratorStats(
            precision=usage.precision,
            offloaded=usage.offloaded,
            cores=usage.cores,
            max_concurrent=usage.max_concurrent,
            prefix_cache_mb=usage.max_prefix_bytes // MB,
        )

    # To answer

    @command(Generate)
    async def generate(self, request: Generate, job: Job) -> AnswerGiven:
        """Answer a prompt, streaming the text as progress."""
        from sovl_daemon.engine.errors import EngineError, OptionError, PromptTooLongError

        conversation = request.conversation or new_id()
        began = time.monotonic()
        messages, options = await self._prepared(request, conversation)
        check = self.settings.controls_config.enable_repetition_check
        answer = self._engine.generate(messages, options, stop_repetition=check)
        parts = []
        try:
            async with aclosing(answer):
                async for chunk in answer:
                    if chunk.text:
                        parts.append(chunk.text)
                        job.progress(text=chunk.text)
                    if chunk.summary is not None:  # the last one has it
                        summary = chunk.summary
        except (OptionError, PromptTooLongError) as error:
            raise CommandError(BAD_ARGUMENT, f"prompt: {error}") from None
        except EngineError as error:
            self._meter.failed(time.monotonic())
            raise CommandError(ENGINE, str(error)) from None
        self._meter.answered(
            time.monotonic(),
            summary.generated_tokens,
            summary.seconds_to_first_token,
            (summary.prompt_tokens + summary.generated_tokens) / self._engine.context_length,
        )
        confidence = answer_confidence(summary.probabilities)
        said = Interaction(
            command=job.id,
            conversation=conversation,
            prompt=request.prompt,
            response="".join(parts),
            tokens=summary.generated_tokens,
            confidence=confidence,
        )
        number = await self._written_down(said, began)
        await self._tuning.reinforce(answer.prompt, confidence, self.settings)
        return AnswerGiven(
            text=said.response,
            conversation=conversation,
            interaction=number,
            finish_reason=summary.finish_reason,
            prompt_tokens=summary.prompt_tokens,
            cached_tokens=summary.cached_tokens,
            tokens=summary.generated_tokens,
            first_token_s=summary.seconds_to_first_token,
            tokens_per_s=round(summary.tokens_per_second, 2),
            confidence=confidence,
            seconds=round(time.monotonic() - began, 3),
        )

    async def _prepared(
        self, request: Generate, conversation: str
    ) -> tuple[list[Message], SamplingOptions]:
        """What to answer, and how; who sleeps wakes up. Raises CommandError."""
        from sovl_daemon.engine.errors import EngineError

        generation, controls = self.settings.generation, self.settings.controls_config
        mind = self._tuning.mind
        warmth = sampling_temperature(mind.temperament if mind else 0.0, controls, self._rng)
        try:  # what never can be answered is refused before anybody is woken because of it
            options = options_of(request, self.settings, warmth)
            self._engine.check([Message("user", request.prompt)], options)
        except EngineError as error:
            raise CommandError(BAD_ARGUMENT, f"prompt: {error}") from None
        await self.publish(ANSWERING, AnswerStarted(conversation=conversation))
        limit = generation.history_messages // 2
        context = await self.ask(Context(conversation=conversation, limit=limit))
        return messages_of(generation.system_prompt, context, request.prompt), options

    async def _written_down(self, said: Interaction, began: float) -> int:
        """The number under which the scribe wrote it down. Raises CommandError."""
        record = RecordInteraction(interaction=said, seconds=time.monotonic() - began)
        try:
            return (await self.ask(record)).interaction
        except CommandError as error:
            if error.code != UNAVAILABLE:
                raise
            told = f"the answer could not be written down, so it does not count: {error.message}"
            raise CommandError(UNAVAILABLE, told) from None

    @command(DigestBase, long=True)
    async def fingerprint(self, request: DigestBase, job: Job) -> BaseDigests:
        """Digests by which to see whether the base is, bit for bit, what it was."""
        return BaseDigests(**(await self._engine.fingerprint())._asdict())

    # To be tuned: first the engine takes a change, and only then it is kept

    @command(HoldInt8, long=True)
    async def int8(self, request: HoldInt8, job: Job) -> PrecisionHeld:
        """Hold the weights in 8 bits, at once and while conversations go on."""
        return await self._switch("int8")

    @command(HoldInt4, long=True)
    async def int4(self, request: HoldInt4, job: Job) -> PrecisionHeld:
        """Hold the weights in 4 bits, at once and while conversations go on."""
        return await self._switch("int4")

    @command(HoldFp16, long=True)
    async def fp16(self, request: HoldFp16, job: Job) -> PrecisionHeld:
        """Hold the weights as they were loaded, bit for bit."""
        usage = self._engine.usage()
        room_mb = usage.parameters * max(0, 16 - usage.bits) / 8e6
        await Gate(self, "more bits").passed(job, force=request.force, needs_mb=room_mb)
        return await self._switch("fp16")

    @command(SelectLayers)
    async def dynamic(self, request: SelectLayers, job: Job) -> FusedLayers:
        """Choose the fused layers by layer_selection_mode."""
        return await self._choose_layers("Dynamic")

    @command(FixLayers)
    async def fixed(self, request: FixLayers, job: Job) -> FusedLayers:
        """Fuse the layers named by cross_attn_layers."""
        return await self._choose_layers("Fixed")

    @command(TuneCross)
    async def cross(self, request: TuneCross, job: Job) -> CrossInfluence:
        """Tune how the scaffold steers the base."""
        await self._change(cross_values(request))
        return cross_influence(self.settings)

    @command(Tune)
    async def tune(self, request: Tune, job: Job) -> CrossInfluence:
        """Set the weight of cross-attention, or show it."""
        if request.weight is not None:
            await self._change(cross_values(TuneCross(what="weight", values=[request.weight])))
        return cross_influence(self.settings)

    async def _switch(self, precision: str) -> PrecisionHeld:
        began = time.monotonic()
        await self._change({"core_config.quantization": precision})
        seconds = round(time.monotonic() - began, 3)
        return PrecisionHeld(text=f"Precision: {precision}, after {seconds} s", seconds=seconds)

    async def _choose_layers(self, kind: str) -> FusedLayers:
        await self._change({"core_config.use_dynamic_layers": kind == "Dynamic"})
        layers = list(fused_layers(self.settings, self._engine.model.layers))
        return FusedLayers(text=f"{kind} layers: {', '.join(map(str, layers))}", layers=layers)

    async def _change(self, values: Mapping[str, Any]) -> None:
        """Set keys for good once the engine has taken them. Raises CommandError; none is set."""
        from sovl_daemon.engine.errors import EngineError

        settings = self.settings
        try:
            for key, value in values.items():
                settings = with_value(settings, key, json.dumps(value))
            await self._tuning.attempt(settings)
            await self.configure(values)
        except (ConfigError, EngineError, CommandError) as error:
            await self._tuning.hold(self.settings)
            if isinstance(error, CommandError):
                raise
            raise CommandError(BAD_ARGUMENT, str(error)) from None

    # For other agents

    @command(ReadUsage, internal=True)
    async def engine_usage(self, request: ReadUsage, job: Job) -> EngineUsage:
        """Count what the engine holds and does now."""
        import torch

        from sovl_daemon.engine.model.allocator import returnable_bytes

        card = self._engine.model.device
        return EngineUsage(
            **asdict(self._engine.usage()),
            pid=os.getpid(),
            free=returnable_bytes(),
            card_bytes=torch.cuda.memory_reserved(card) if card.type == "cuda" else 0,
        )

    @command(Reclaim, internal=True)
    async def reclaim(self, request: Reclaim, job: Job) -> Done:
        """Give free memory back to the system, that of a GPU too."""
        if request.prefixes:
            await self._engine.drop_prefixes()
        await _give_back(self._engine)
        return Done()

    async def _fuse(self) -> None:
        """Let the scaffold steer, beside the base; without one that goes on, and says why."""
        from sovl_daemon.engine.errors import EngineError

        name = self.settings.core_config.scaffold_model_name
        try:
            if self._engine.fusion is None:
                await place_scaffold(self, self._engine)
            await self._tuning.steer(self.settings)
            fused = self._engine.fused()
        except (EngineError, ModelError) as error:
            self.log.error("scaffold.refused", scaffold=name, reason=str(error))
            return
        layers = fused_layers(self.settings, self._engine.model.layers)
        self.log.info("scaffold.ready", scaffold=name, layers=layers)
        await self.ask(NoteCapacity(parameters=fused.trainable))
        shared_engine.set_fused()


async def _give_back(engine: Engine) -> None:
    """Give free memory back to the system."""
    from sovl_daemon.engine.model.allocator import return_free_memory

    gc.collect()
    await anyio.to_thread.run_sync(return_free_memory, engine.model.device)
