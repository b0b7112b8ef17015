"""How settings and mind make the scaffold steer the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus.errors import BAD_ARGUMENT, CommandError
from bus.topics import MindState
from config import Settings
from sovl_daemon.contracts.generator import CrossInfluence, TuneCross
from sovl_daemon.mind.influence import influence

if TYPE_CHECKING:  # torch is loaded when an agent starts, so that the hub can import this module
    from sovl_daemon.engine.fusion.scaffold import FusionOptions
    from sovl_daemon.engine.fusion.steering import Influence, Steering


def steering_of(settings: Settings, mind: MindState | None, count: int) -> Steering:
    """Return how a base of `count` layers is steered: which of them, and how strongly.

    By the mind's age, and by confidence or mood where that is chosen; not before the first night.

    Raises:
        OptionError: the base has no such layer.

    """
    from sovl_daemon.engine.fusion.steering import Influence, Steering

    controls = settings.controls_config
    if not controls.enable_cross_attention:
        return Steering((), Influence())
    factor = 0.0
    if mind is not None:
        mode = cross_influence(settings).dynamic
        factor = mind.influence * influence(mode, mind.confidence, mind.temperament)
    return Steering(
        fused_layers(settings, count),
        influence_of(settings, factor),
        controls.enable_lora_adapters,
    )


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
    """Return the layers of a base of `count` layers that are configured. Raises OptionError."""
    from sovl_daemon.engine.fusion.steering import existing_layers, layers_of_third, spread_layers

    core = settings.core_config
    if not core.use_dynamic_layers:
        named = core.cross_attn_layers
        return existing_layers(named, count) if named else spread_layers(count)
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


def cross_influence(settings: Settings) -> CrossInfluence:
    """Return what is configured, for people."""
    fusion, controls = settings.fusion, settings.controls_config
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


def cross_values(request: TuneCross) -> dict[str, float | list[float] | str | bool | None]:
    """Return the keys that a `cross` command sets, with their values. Raises CommandError."""
    mode = "controls_config.dynamic_cross_attn_mode"
    if request.what in ("weight", "blend") and len(request.values) != 1:
        raise CommandError(BAD_ARGUMENT, f"values: {request.what} takes one number from 0 to 1")
    match request.what:
        case "weight":
            return {"fusion.weight": request.values[0], "fusion.layer_weights": []}
        case "blend":
            return {"fusion.blend": request.values[0]}
        case "layers":
            return {"fusion.layer_weights": request.values}
    if request.values:
        raise CommandError(BAD_ARGUMENT, f"values: {request.what} takes none")
    if request.what == "off":
        return {mode: None}
    return {mode: request.what, "controls_config.enable_dynamic_cross_attention": True}
