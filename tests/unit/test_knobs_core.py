"""The knobs of core and LoRA change which layers steer, how precisely, and what learns."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from agents.generator.steering import fused_layers, fusion_options
from config import Settings, with_value
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.fusion.lora import lora_layers
from tests.unit.engine_tiny import save_tiny
from tests.unit.test_engine_fusion import PROMPT
from tests.unit.test_knobs_steering import held


def settings(values: dict[str, str]) -> Settings:
    made = Settings()
    for key, value in values.items():
        made = with_value(made, key, value)
    return made


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    loaded = await Engine.load(save_tiny(tmp_path / "base"), device="cpu", dtype="float32")
    yield loaded
    await loaded.close()


async def fused(engine: Engine, **values: str) -> Fusion:
    """The base as its own scaffold, whose adapters have learned something."""
    assert engine.model.path is not None
    await engine.fuse(engine.model.path, fusion_options(settings(values)))
    assert engine.fusion is not None
    for name, each in engine.fusion.scaffold.adapters.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(each.data, 0.1)
    return engine.fusion


def hidden(fusion: Fusion, *, training: bool = False) -> torch.Tensor:
    """What the scaffold makes of a prompt."""
    torch.manual_seed(1)
    fusion.scaffold.adapters.train(training)
    with torch.inference_mode():
        return fusion.scaffold.read(PROMPT, fusion.scaffold.new_cache())


DYNAMIC = {"use_dynamic_layers": "true"}
CUSTOM = {"layer_selection_mode": "custom", "custom_layers": "[1, 2]"}
# By knob: what is set, and which of 30 layers are fused then.
LAYERS: dict[str, tuple[dict[str, str], tuple[int, ...]]] = {
    "cross_attn_layers": ({"cross_attn_layers": "[5, 7]"}, (5, 7)),
    "use_dynamic_layers": (DYNAMIC, tuple(range(10, 20))),
    "layer_selection_mode": (DYNAMIC | {"layer_selection_mode": "early"}, tuple(range(10))),
    "custom_layers": (CUSTOM | DYNAMIC, (1, 2)),
}


@pytest.mark.parametrize("knob", LAYERS)
def test_so_the_fused_layers_are_chosen(knob: str) -> None:
    values, layers = LAYERS[knob]
    assert fused_layers(Settings(), 30) == (15, 18, 21, 24, 27)
    assert fused_layers(settings(values), 30) == layers


async def test_what_is_fused_is_what_was_chosen(engine: Engine) -> None:
    fusion = await fused(engine)
    for layers in ((0,), (0, 1)):
        await held(engine, core_config__cross_attn_layers=str(list(layers)))
        assert fusion.layers == layers


async def test_the_base_is_held_as_precisely_as_told(engine: Engine) -> None:
    precisions = []
    for quantization in ("fp16", "int8", "int4"):
        await held(engine, core_config__quantization=quantization)
        precisions.append(engine.precision)
    assert precisions == ["fp32", "int8", "int4"]  # fp16 is what it was loaded in


async def test_the_rank_is_how_much_can_be_learned(engine: Engine) -> None:
    usual = (await fused(engine, lora_rank="8")).trainable
    assert (await fused(engine, lora_rank="16")).trainable == 2 * usual


async def test_alpha_is_the_scale_of_what_was_learned(engine: Engine) -> None:
    usual = hidden(await fused(engine))
    assert not torch.allclose(hidden(await fused(engine, lora_alpha="64")), usual, atol=1e-3)


async def test_dropout_leaves_inputs_out_while_it_learns(engine: Engine) -> None:
    none = await fused(engine, lora_dropout="0")
    assert torch.equal(hidden(none, training=True), hidden(none))
    half = await fused(engine, lora_dropout="0.5")
    assert not torch.allclose(hidden(half, training=True), hidden(half), atol=1e-4)


async def test_the_modules_that_are_named_get_adapters(engine: Engine) -> None:
    fusion = await fused(engine, lora_target_modules='["k_proj"]')
    assert {name.rpartition(".")[2] for name in lora_layers(fusion.scaffold.adapters)} == {"k_proj"}
