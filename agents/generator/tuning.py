"""Tuning the engine while it answers: precision, fused layers, and how strongly they steer.

What the manuals' words change is a setting like any other: first the engine takes it, and only
then it is kept, so a change that is refused leaves nothing half changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.to_thread

from agents.base import Agent, Job
from agents.gate import Gate
from agents.shared_engine import shared_engine
from bus.commands import command
from bus.envelope import Envelope
from bus.errors import BAD_ARGUMENT, CommandError
from bus.topics import MIND, MindState
from config import ConfigError, Settings, with_value
from sovl_daemon.contracts.generator import (
    CrossInfluence,
    FixLayers,
    FusedLayers,
    HoldFp16,
    HoldInt4,
    HoldInt8,
    PrecisionHeld,
    SelectLayers,
    Tune,
    TuneCross,
)
from sovl_daemon.contracts.hub import ConfigSet
from sovl_daemon.contracts.mind import NoteCapacity
from sovl_daemon.heavy_imports import heavy_imports
from sovl_daemon.mind.influence import InfluenceMode, influence
from sovl_daemon.models import ModelError, ModelStore

if TYPE_CHECKING:  # torch is loaded when an agent starts, so that the hub can import this module
    from sovl_daemon.engine.engine import Engine
    from sovl_daemon.engine.fusion.scaffold import FusionOptions
    from sovl_daemon.engine.fusion.steering import Influence, Steering

PULL_AGAIN_S = 300.0  # longest pause: each try fetches anew
_TOKEN_MAP_STRENGTH = 1.0
_MB = 2**20


class Tuning(Agent):
    """The part of an agent that holds an engine to what is configured."""

    engine: Engine | None = None
    topics: ClassVar[tuple[str, ...]] = (MIND,)
    mind: MindState | None = None

    async def on_event(self, event: Envelope) -> None:
        """Follow the mind: its age and mood weigh the scaffold's influence."""
        from sovl_daemon.engine.errors import EngineError

        if isinstance(event.payload, MindState):
            self.mind = event.payload
            try:
                await self._steer(self.settings)
            except EngineError as error:
                self.log.error("tuning.refused", reason=str(error))

    async def on_settings(self, before: Settings) -> str:
        """Follow settings that changed elsewhere; what the engine refuses is told and logged."""
        return await self.tune(self.settings)

    async def tune(self, settings: Settings) -> str:
        """Hold the engine to `settings` as far as it can; the rest is logged and returned."""
        from sovl_daemon.engine.errors import EngineError

        refused = []
        for hold in (
            self._size_prefix_cache,
            self._admit,
            self._keep_to_cores,
            self._offload,  # first, lest weights that are not to be held are quantised
            self._hold_precision,
            self._steer,
        ):
            try:
                await hold(settings)
            except EngineError as error:
                refused.append(str(error))
                self.log.error("tuning.refused", reason=str(error))
        return "; ".join(refused)

    def stats(self) -> dict[str, Any]:
        """What the engine is really held to."""
        if self.engine is None:
            return {}
        usage = self.engine.usage()
        return {
            "precision": usage.precision,
            "offloaded": usage.offloaded,
            "cores": usage.cores,
            "max_concurrent": usage.max_concurrent,
            "prefix_cache_mb": usage.max_prefix_bytes // _MB,
        }

    async def fuse(self) -> None:
        """Let the scaffold steer, beside the base; without one that goes on, and says why."""
        from sovl_daemon.engine.errors import EngineError

        name = self.settings.core_config.scaffold_model_name
        try:
            engine = await shared_engine.loaded()
            if engine.fusion is None:
                await self.place_scaffold()
            await self._steer(self.settings)
        except (EngineError, ModelError) as error:
            self.log.error("scaffold.refused", scaffold=name, reason=str(error))
            return
        layers = fused_layers(self.settings, engine.model.layers)
        self.log.info("scaffold.ready", scaffold=name, layers=layers)
        await self.ask(NoteCapacity(parameters=engine.fused().trainable))
        shared_engine.set_fused()

    async def place_scaffold(self) -> None:
        """Put the scaffold beside the base. Raises EngineError or ModelError."""
        await anyio.to_thread.run_sync(_import_fusion)  # seconds that must not silence us
        store = ModelStore(self.paths.model_dir)
        name = self.settings.core_config.scaffold_model_name
        resolve = partial(anyio.to_thread.run_sync, store.resolve, name)
        path = await self.hindrance.outlast(resolve, longest_s=PULL_AGAIN_S)
        engine = await shared_engine.loaded()
        note = await engine.fuse(path, fusion_options(self.settings))
        await shared_engine.note("scaffold", name, path)
        if note:
            self.log.warning("scaffold.adapters", reason=note)

    async def lived(self, prompt: Sequence[int], confidence: float) -> None:
        """Take in how an answer to the token ids `prompt` went."""
        controls = self.settings.controls_config
        if self.engine is None or self.engine.fusion is None:
            return
        if controls.use_token_map_memory:
            await self.engine.reinforce(
                prompt, confidence, strength=_TOKEN_MAP_STRENGTH, decay=controls.memory_decay_rate
            )

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
        if self.engine is not None:
            usage = self.engine.usage()
            room_mb = usage.parameters * max(0, 16 - usage.bits) / 8e6
            await Gate(self, "more bits").passed(job, force=request.force, needs_mb=room_mb)
        return await self._switch("fp16")

    @command(SelectLayers)
    async def dynamic(self, request: SelectLayers, job: Job) -> FusedLayers:
        """Choose the fused layers by layer_selection_mode."""
        return await self._choose_layers(True)

    @command(FixLayers)
    async def fixed(self, request: FixLayers, job: Job) -> FusedLayers:
        """Fuse the layers named by cross_attn_layers."""
        return await self._choose_layers(False)

    @command(TuneCross)
    async def cross(self, request: TuneCross, job: Job) -> CrossInfluence:
        """Tune how the scaffold steers the base."""
        await self._change(_cross_settings(request))
        return self._influence()

    @command(Tune)
    async def tune_cross(self, request: Tune, job: Job) -> CrossInfluence:
        """Set the weight of cross-attention, or show it."""
        if request.weight is not None:
            weight = TuneCross(what="weight", values=[request.weight])
            await self._change(_cross_settings(weight))
        return self._influence()

    async def _switch(self, precision: str) -> PrecisionHeld:
        began = time.monotonic()
        await self._change({"core_config.quantization": f'"{precision}"'})
        seconds = round(time.monotonic() - began, 3)
        text = f"Precision: {precision}, after {seconds} s"
        return PrecisionHeld(text=text, seconds=seconds)

    async def _choose_layers(self, dynamic: bool) -> FusedLayers:
        await self._change({"core_config.use_dynamic_layers": str(dynamic).lower()})
        layers = list(fused_layers(self.settings, (await shared_engine.loaded()).model.layers))
        kind = "Dynamic" if dynamic else "Fixed"
        return FusedLayers(text=f"{kind} layers: {', '.join(map(str, layers))}", layers=layers)

    def _influence(self) -> CrossInfluence:
        fusion, controls = self.settings.fusion, self.settings.controls_config
        mode = controls.dynamic_cross_attn_mode if controls.enable_dynamic_cross_attention else None
        weight = "per-layer" if fusion.layer_weights else f"{fusion.weight:.2f}"
        return CrossInfluence(
            text=f"Scaffold influence: weight={weight}, blend_strength={fusion.blend:.2f}, "
            f"dynamic={mode or 'off'}",
            weight=fusion.weight,
            layer_weights=list(fusion.layer_weights),
            blend=fusion.blend,
            dynamic=mode,
        )

    async def _change(self, values: dict[str, str]) -> None:
        """Set keys to values written as JSON. Raises CommandError, and nothing is changed."""
        from sovl_daemon.engine.errors import EngineError

        before, settings = self.settings, self.settings
        try:
            for key, value in values.items():
                settings = with_value(settings, key, value)
            await self._hold_precision(settings)
            await self._steer(settings)
        except (ConfigError, EngineError) as error:
            await self.tune(before)
            raise CommandError(BAD_ARGUMENT, str(error)) from None
        self.settings = settings
        await self.control(ConfigSet(values=values))

    async def _size_prefix_cache(self, settings: Settings) -> None:
        """Keep as much of ended answers as configured. Raises EngineError."""
        max_bytes = settings.generation.prefix_cache_mb * _MB
        if self.engine is not None and max_bytes != self.engine.usage().max_prefix_bytes:
            await self.engine.resize_prefix_cache(max_bytes)

    async def _admit(self, settings: Settings) -> None:
        """Let as many answers advance together as configured. Raises EngineError."""
        if self.engine is not None:
            await self.engine.admit(settings.generation.max_concurrent)

    async def _keep_to_cores(self, settings: Settings) -> None:
        """Run on as many cores as configured. Raises EngineError."""
        if self.engine is not None and settings.host.cores != self.engine.usage().cores:
            await self.engine.keep_to_cores(settings.host.cores)

    async def _offload(self, settings: Settings) -> None:
        """Leave the weights in their file as configured. Raises EngineError."""
        if self.engine is None:
            return
        wanted = settings.host.offload_weights
        if wanted == self.engine.usage().offloaded:
            return
        began = time.monotonic()
        await self.engine.offload(wanted)
        seconds = round(time.monotonic() - began, 3)
        self.log.info("weights.placed", offloaded=wanted, seconds=seconds)

    async def _hold_precision(self, settings: Settings) -> None:
        """Hold the weights as configured. Raises EngineError."""
        if self.engine is None:
            return
        wanted = settings.core_config.quantization
        # "fp16" stands for not quantised: some CPUs compute in 32 bits.
        precision = self.engine.model.plain if wanted == "fp16" else wanted
        if precision == self.engine.precision:
            return
        began = time.monotonic()
        await self.engine.set_precision(precision)
        seconds = round(time.monotonic() - began, 3)
        self.log.info("precision.switched", precision=precision, seconds=seconds)

    async def _steer(self, settings: Settings) -> None:
        """Steer as configured. Raises EngineError."""
        if self.engine is not None and self.engine.fusion is not None:
            wanted = self._steering(settings, self.engine.model.layers)
            if wanted != self.engine.fusion.steering:
                await self.engine.steer(wanted)

    def _steering(self, settings: Settings, layers: int) -> Steering:
        from sovl_daemon.engine.fusion.steering import Influence, Steering

        controls = settings.controls_config
        if not controls.enable_cross_attention:
            return Steering((), Influence())
        mode = controls.dynamic_cross_attn_mode if controls.enable_dynamic_cross_attention else None
        return Steering(
            fused_layers(settings, layers),
            influence_of(settings, self._factor(mode)),
            controls.enable_lora_adapters,
        )

    def _factor(self, mode: InfluenceMode) -> float:
        """By age, and by confidence or mood where that is chosen; 0 before the first night."""
        if self.mind is None:
            return 0.0
        return self.mind.influence * influence(mode, self.mind.confidence, self.mind.temperament)


def influence_of(settings: Settings, factor: float) -> Influence:
    """Return how strongly the fused layers steer, with what age and mood make of it."""
    from sovl_daemon.engine.fusion.steering import Influence

    fusion = settings.fusion
    return Influence(
        weight=fusion.weight,
        layer_weights=fusion.layer_weights,
        cap=settings.controls_config.scaffold_weight_cap,
        blend=fusion.blend,
        factor=factor,
    )


def fused_layers(settings: Settings, count: int) -> tuple[int, ...]:
    """The layers of a base of `count` layers that are configured. Raises OptionError."""
    from sovl_daemon.engine.fusion.steering import existing_layers, layers_of_third, spread_layers

    core = settings.core_config
    if not core.use_dynamic_layers:
        return (
            existing_layers(core.cross_attn_layers, count)
            if core.cross_attn_layers
            else spread_layers(count)
        )
    if core.layer_selection_mode == "custom":
        return existing_layers(core.custom_layers, count)
    return layers_of_third(core.layer_selection_mode, count)


def fusion_options(settings: Settings) -> FusionOptions:
    """Return how scaffold and cross-attention are configured."""
    from sovl_daemon.engine.fusion.lora import LoraOptions
    from sovl_daemon.engine.fusion.scaffold import FusionOptions

    lora = settings.lora_config
    return FusionOptions(
        lora=LoraOptions(
            rank=lora.lora_rank,
            alpha=lora.lora_alpha,
            dropout=lora.lora_dropout,
            targets=lora.lora_target_modules,
            blocks=settings.fusion.adapted_blocks,
        ),
        heads=settings.fusion.heads,
        head_size=settings.fusion.head_size,
        seed=settings.core_config.random_seed,
    )


def _cross_settings(request: TuneCross) -> dict[str, str]:
    """The keys that a `cross` command sets, with their values as JSON. Raises CommandError."""
    mode = "controls_config.dynamic_cross_attn_mode"
    if request.what in ("weight", "blend") and len(request.values) != 1:
        raise CommandError(BAD_ARGUMENT, f"values: {request.what} takes one number from 0 to 1")
    match request.what:
        case "weight":
            return {"fusion.weight": str(request.values[0]), "fusion.layer_weights": "[]"}
        case "blend":
            return {"fusion.blend": str(request.values[0])}
        case "layers":
            return {"fusion.layer_weights": str(request.values)}
    if request.values:
        raise CommandError(BAD_ARGUMENT, f"values: {request.what} takes none")
    if request.what == "off":
        return {mode: "null"}
    return {mode: f'"{request.what}"', "controls_config.enable_dynamic_cross_attention": "true"}


def _import_fusion() -> None:
    with heavy_imports():
        import sovl_daemon.engine.fusion.fusion
        import sovl_daemon.engine.fusion.scaffold  # noqa: F401 - for the side effect of being loaded
