"""Whether base and scaffold fit together, on tiny pairs; and what an agent makes of a misfit."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from agents.generator import architecture
from agents.generator.generator import Generator
from bus.errors import FatalError
from config import Paths, Settings, with_value
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.errors import (
    EngineError,
    ModelLoadError,
    NonFiniteLogitsError,
    OptionError,
)
from sovl_daemon.engine.fusion.cross_attention import CrossAttention
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import FusionOptions
from sovl_daemon.engine.fusion.steering import Influence
from sovl_daemon.engine.model.kv_cache import Span
from tests.unit.engine_tiny import (
    VOCABULARY,
    byte_fallback_tokenizer,
    byte_level_tokenizer,
    save_tiny,
    tiny_network,
)

FITS = {
    "core_config.cross_attn_layers": "[0, 1]",
    "core_config.custom_layers": "[1]",
    "training_config.dry_run": "true",
    "host.device": '"cpu"',
}
ARCHITECTURE = {"base_layers": 2, "base_width": 32, "scaffold_width": 32}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    loaded = await Engine.load(save_tiny(tmp_path / "base"), device="cpu", dtype="float32")
    yield loaded
    await loaded.close()


def agent(engine: Engine, scaffold: Path, **values: str) -> Generator:
    """An agent that was never served: it has settings and an engine."""
    wanted = FITS | {"core_config.scaffold_model_name": f'"{scaffold}"'} | values
    settings = Settings()
    for key, value in wanted.items():
        settings = with_value(settings, key, value)
    root = scaffold.parent
    environ = {"XDG_RUNTIME_DIR": "/tmp", "HOME": str(root), "XDG_DATA_HOME": str(root / "data")}
    settings = with_value(settings, "store.model_dir", f'"{root / "models"}"')
    made = Generator(settings, Paths.of(settings, environ), "host")
    made._engine = engine
    return made


async def facts(generator: Generator) -> dict[str, Any]:
    with capture_logs() as lines:
        await architecture.validate(generator, generator._engine)
    return dict(next(line for line in lines if line["event"] == "architecture.valid"))


async def refusal(generator: Generator) -> str:
    with capture_logs() as lines, pytest.raises(FatalError) as caught:
        await architecture.validate(generator, generator._engine)
    assert "architecture.valid" not in [line["event"] for line in lines]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("family", "adapters", "layers"),
    [("llama", 4, "[0, 1]"), ("gpt2", 2, "[1]")],
)
async def test_a_pair_that_fits_is_described(
    engine: Engine, tmp_path: Path, family: str, adapters: int, layers: str
) -> None:
    scaffold = save_tiny(tmp_path / "scaffold", family, seed=2)
    tuning = agent(engine, scaffold, **{"core_config.cross_attn_layers": layers})
    found = await facts(tuning)
    assert found.items() >= (ARCHITECTURE | {"adapters": adapters, "translated": 1.0}).items()
    assert str(list(found["layers"])) == layers
    assert found["trainable"] > 0


async def test_another_tokenizer_is_translated(engine: Engine, tmp_path: Path) -> None:
    scaffold = save_tiny(tmp_path / "scaffold")
    byte_fallback_tokenizer().save_pretrained(scaffold)
    found = await facts(agent(engine, scaffold))
    assert engine.fusion is not None
    assert engine.fusion.tokens is not None
    assert 0.9 < found["translated"] <= 1


async def test_the_trial_leaves_nothing_behind(engine: Engine, tmp_path: Path) -> None:
    def logits() -> torch.Tensor:
        cache = engine.model.new_cache()
        engine.model.listen(range(9), cache, since=8)
        return engine.model.forward([Span(range(9), cache)])

    before = logits()
    await facts(agent(engine, save_tiny(tmp_path / "scaffold", seed=3)))
    fusion = engine.fusion
    assert fusion is not None
    assert fusion.layers == fusion.active == ()
    assert all(fusion.attention(layer).fresh for layer in (0, 1))
    assert torch.equal(logits(), before)


async def test_what_was_learned_is_tried_as_it_is(engine: Engine, tmp_path: Path) -> None:
    tuning = agent(engine, save_tiny(tmp_path / "scaffold", seed=3))
    await facts(tuning)
    fusion = engine.fusion
    assert fusion is not None
    learned = fusion.attention(1).output.weight
    torch.nn.init.normal_(learned, std=0.3)
    fusion.set([1], Influence(weight=0.5))
    kept, before = learned.clone(), fusion.steering
    await engine.examine([0, 1])
    assert torch.equal(learned, kept)
    assert (fusion.steering, fusion.active) == (before, (1,))
    torch.nn.init.constant_(learned, torch.inf)
    fusion.refresh()
    with pytest.raises(NonFiniteLogitsError):
        await engine.examine([0, 1])


async def test_fused_layers_really_steer_in_the_trial(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    forward = CrossAttention.forward

    def watched(self: CrossAttention, x: torch.Tensor, *args: Any) -> torch.Tensor:
        read.append(len(x))
        added: torch.Tensor = forward(self, x, *args)
        assert bool(added.any())
        return added

    monkeypatch.setattr(CrossAttention, "forward", watched)
    await facts(agent(engine, save_tiny(tmp_path / "scaffold", seed=3)))
    assert len(read) == 2


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"core_config.cross_attn_layers": "[5, 7]"},
            "core_config.cross_attn_layers: layer 5 cannot be fused: the base has layers 0 to 1",
        ),
        (
            {
                "core_config.use_dynamic_layers": "true",
                "core_config.layer_selection_mode": '"custom"',
                "core_config.custom_layers": "[2]",
            },
            "core_config.custom_layers: layer 2 cannot be fused: the base has layers 0 to 1",
        ),
        (
            {"core_config.scaffold_model_name": '"/no/such/model"'},
            "core_config.scaffold_model_name: ",
        ),
        (
            {"fusion.layer_weights": "[0.5]"},
            "fusion.layer_weights: 1 layer weights for 2 fused layers",
        ),
    ],
)
async def test_a_setting_that_does_not_fit_is_named(
    engine: Engine, tmp_path: Path, values: dict[str, str], complaint: str
) -> None:
    tuning = agent(engine, save_tiny(tmp_path / "scaffold"), **values)
    assert (await refusal(tuning)).startswith(complaint)


async def test_adapters_without_a_target(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sovl_daemon.engine.fusion.lora.USUAL_TARGETS", {})
    values = {"lora_config.lora_target_modules": '["no_proj"]'}
    tuning = agent(engine, save_tiny(tmp_path / "scaffold"), **values)
    assert (await refusal(tuning)).startswith(
        "lora_config.lora_target_modules: a llama scaffold has no no_proj"
    )


# What the model store would refuse by itself goes to the engine directly.


async def refused(engine: Engine, network: Any, folder: Path) -> str:
    network.save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    await engine.fuse(folder, FusionOptions(lora=LoraOptions(targets=("c_attn",))))
    with pytest.raises(EngineError) as caught:
        await engine.examine([0, 1])
    return str(caught.value)


async def test_damaged_weights(engine: Engine, tmp_path: Path) -> None:
    network = tiny_network("gpt2")
    network.transformer.ln_f.weight.fill_(torch.nan)
    assert "logits are not finite" in await refused(engine, network, tmp_path / "scaffold")


async def test_a_tokenizer_of_another_model(engine: Engine, tmp_path: Path) -> None:
    network = tiny_network("gpt2")
    network.resize_token_embeddings(VOCABULARY // 2)
    assert f"but knows {VOCABULARY // 2}: " in await refused(engine, network, tmp_path / "scaffold")


async def test_no_words_at_all(engine: Engine, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "scaffold")
    byte_fallback_tokenizer().save_pretrained(folder)
    await engine.fuse(folder, FusionOptions(lora=LoraOptions()))
    assert engine.fusion is not None
    tokens: Any = engine.fusion.tokens
    tokens.has_words_for = lambda _: False
    with pytest.raises(ModelLoadError, match="no words for any"):
        await engine.examine([0])


async def test_a_pass_that_fails(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand more")

    monkeypatch.setattr(CrossAttention, "project", broken)
    scaffold = save_tiny(tmp_path / "scaffold")
    assert await refusal(agent(engine, scaffold)) == (
        "core_config.scaffold_model_name: it cannot read beside the base "
        "(mat1 and mat2 shapes cannot be multiplied): choose another"
    )


async def test_without_a_scaffold_there_is_nothing_to_examine(engine: Engine) -> None:
    with pytest.raises(OptionError, match="no scaffold"):
        await engine.examine([0])


@pytest.mark.parametrize("dry", ["true", "false"])
@pytest.mark.parametrize("asked", ["true", "false"])
def test_only_a_dry_run_that_is_told_to_asks(dry: str, asked: str) -> None:
    settings = with_value(Settings(), "training_config.dry_run", dry)
    settings = with_value(settings, "dry_run_params.validate_architecture", asked)
    assert architecture.wanted(settings) is (dry == asked == "true")
