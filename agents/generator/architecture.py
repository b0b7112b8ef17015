"""What a dry run asks first: whether base and scaffold fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agents.base import Agent
from agents.generator.loading import place_scaffold
from agents.generator.steering import fused_layers, influence_of
from bus.errors import FatalError
from config import Settings
from sovl_daemon.engine.errors import EngineError
from sovl_daemon.models import ModelError

if TYPE_CHECKING:  # torch is loaded by the generator
    from sovl_daemon.engine.engine import Engine

_SCAFFOLD = "core_config.scaffold_model_name"
_OF_LORA = "lora_target_modules: "


def wanted(settings: Settings) -> bool:
    """Tell whether the start is to ask."""
    training = settings.training_config
    return training.dry_run and training.dry_run_params.validate_architecture


async def validate(agent: Agent, engine: Engine) -> None:
    """Put the scaffold beside the base, and log what they are together.

    Raises:
        FatalError: they do not fit; it names the key that says they should.

    """
    settings, core = agent.settings, agent.settings.core_config
    chosen_by = "custom_layers" if core.use_dynamic_layers else "cross_attn_layers"
    with _blaming(f"core_config.{chosen_by}"):
        layers = fused_layers(settings, engine.model.layers)
    with _blaming("fusion.layer_weights"):
        influence_of(settings, 1.0).weights_of(layers)
    with _blaming(_SCAFFOLD):
        await place_scaffold(agent, engine)
        found = await engine.examine(layers)
    agent.log.info("architecture.valid", layers=layers, **dataclasses.asdict(found))


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    """Make an error inside the block one that names `key`, or the one it names itself."""
    try:
        yield
    except (EngineError, ModelError) as error:
        text = str(error)
        named = f"lora_config.{text}" if text.startswith(_OF_LORA) else f"{key}: {text}"
        raise FatalError(named) from None
