"""The knobs of the scaffold's influence change what a base beside a taught scaffold says next."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
import torch

from agents.dreamer import Dreamer
from agents.generator.tuning import Tuning
from agents.shared_engine import shared_engine
from bus.topics import DreamKept, MindState
from config import Paths, Settings, with_value
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import FusionOptions
from tests.unit.engine_tiny import byte_fallback_tokenizer, save_tiny
from tests.unit.test_engine_fusion import PROMPT, logits, taught

CROSS = "controls_config.dynamic_cross_attn_mode"
CONFIDENT = MindState(
    confidence=0.9,
    temperament=0.5,
    mood="calm",
    pressure=0.0,
    exposure=100,
    stage=0.5,
    influence=1.0,
    asleep=False,
    has_woken=True,
    nights=1,
)
DREAMT = CONFIDENT.model_copy(update={"dreams": (DreamKept(name="1", share=0.5),)})


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """A base and a scaffold that speaks otherwise, both taught."""
    loaded = await Engine.load(save_tiny(tmp_path / "base"), device="cpu", dtype="float32")
    scaffold = save_tiny(tmp_path / "scaffold", seed=2)
    byte_fallback_tokenizer().save_pretrained(scaffold)
    await loaded.fuse(
        scaffold, FusionOptions(lora=LoraOptions(rank=2, alpha=4), heads=2, head_size=4)
    )
    assert loaded.fusion is not None
    for name, each in loaded.fusion.scaffold.adapters.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each.data, std=0.3)
    taught(loaded.fusion)
    yield loaded
    await loaded.close()


@pytest.fixture
async def dreamer(engine: Engine) -> AsyncIterator[Dreamer]:
    """A dreamer that has dreamt what `DREAMT` remembers."""
    settings = Settings()
    made = Dreamer(settings, Paths.of(settings), "host")
    await made.start()
    hidden = await engine.dream("Kira is 44 years old.", noise=0.1, seed=1)
    assert hidden is not None
    made._hidden["1"] = hidden
    made._state = DREAMT
    shared_engine.set_loaded(engine)
    shared_engine.set_fused()
    yield made
    shared_engine.withdraw()


async def held(engine: Engine, **values: str) -> tuple[Tuning, Settings]:
    """What holds the engine to these knobs, beside a confident mind."""
    settings = with_value(Settings(), "core_config.cross_attn_layers", "[0, 1]")
    for key, value in values.items():
        settings = with_value(settings, key.replace("__", "."), value)
    tuning = Tuning(engine, structlog.get_logger())
    tuning.mind = CONFIDENT
    assert await tuning.hold(settings) == ""
    return tuning, settings


async def said(engine: Engine, **values: str) -> torch.Tensor:
    """The logits behind a prompt with these knobs."""
    await held(engine, **values)
    assert engine.fusion is not None
    found: torch.Tensor = logits(engine.fusion)
    return found


async def test_without_cross_attention_it_is_the_base(engine: Engine) -> None:
    steered = await said(engine)
    plain = await said(engine, controls_config__scaffold_weight_cap="0.5", fusion__weight="0")
    assert not torch.allclose(steered, plain, atol=1e-2)
    assert torch.equal(await said(engine, controls_config__enable_cross_attention="false"), plain)


async def test_without_scaffold_memory_it_steers_by_the_conversation_alone(
    engine: Engine, dreamer: Dreamer
) -> None:
    plain = await said(engine, controls_config__enable_cross_attention="false")
    undreamt = await said(engine)
    await dreamer._blend(DREAMT)
    dreamt = await said(engine)
    dreamer.settings = with_value(dreamer.settings, "use_scaffold_memory", "false")
    await dreamer._blend(DREAMT)
    off = await said(engine)
    assert torch.equal(off, undreamt)
    assert not torch.allclose(off, plain, atol=1e-2)
    assert not torch.allclose(off, dreamt, atol=1e-3)
    dreamer.settings = with_value(dreamer.settings, "use_scaffold_memory", "true")
    await dreamer._blend(DREAMT)
    assert torch.equal(await said(engine), dreamt)


async def test_without_adapters_it_reads_otherwise(engine: Engine) -> None:
    off = await said(engine, controls_config__enable_lora_adapters="false")
    assert not torch.allclose(await said(engine), off, atol=1e-3)


async def test_the_cap_bounds_the_weight(engine: Engine) -> None:
    capped = await said(engine, controls_config__scaffold_weight_cap="0.5")
    assert not torch.allclose(await said(engine), capped, atol=1e-3)
    assert torch.equal(await said(engine, fusion__weight="0.5"), capped)


async def test_it_dreams_by_the_seed_that_is_set(dreamer: Dreamer) -> None:
    before = dreamer.settings
    dreamer.settings = with_value(before, "random_seed", "7")
    await dreamer.on_settings(before)
    assert dreamer._rng.random() == random.Random(7).random()
    await dreamer.on_settings(dreamer.settings)  # something else was set
    assert dreamer._rng.random() != random.Random(7).random()


@pytest.mark.parametrize("mode", ["confidence", "temperament"])
async def test_a_mode_weighs_by_the_mind(engine: Engine, mode: str) -> None:
    fixed = await said(engine, fusion__weight="0.5")
    weighed = {"fusion__weight": "0.5", "controls_config__dynamic_cross_attn_mode": mode}
    assert not torch.allclose(await said(engine, **weighed), fixed, atol=1e-4)
    weighed["controls_config__enable_dynamic_cross_attention"] = "false"
    assert torch.equal(await said(engine, **weighed), fixed)


async def weight_after_an_answer(engine: Engine, **values: str) -> tuple[float, float]:
    """The weights in the token map of a token that was used now, and of one used before it."""
    tuning, settings = await held(engine, **values)
    await tuning.reinforce(PROMPT[:1], 0.9, settings)
    await tuning.reinforce(PROMPT[1:2], 0.9, settings)
    assert engine.fusion is not None
    tokens = engine.fusion.tokens
    assert tokens is not None
    return tokens.weight(PROMPT[1]), tokens.weight(PROMPT[0])


async def test_the_token_map_learns_from_answers(engine: Engine) -> None:
    off = await weight_after_an_answer(engine, controls_config__use_token_map_memory="false")
    assert off == (1, 1)
    assert max(await weight_after_an_answer(engine)) != 1


async def test_what_the_token_map_learned_decays(engine: Engine) -> None:
    kept = await weight_after_an_answer(engine, controls_config__memory_decay_rate="1")
    assert kept[0] == pytest.approx(kept[1])
    latest, before = await weight_after_an_answer(engine, controls_config__memory_decay_rate="0.5")
    assert before < latest
