"""The adapters of a simulated life are those that the daemon would make."""

from pathlib import Path

import pytest

from config import Settings, with_value
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import make_scaffold
from sovl_daemon.engine.model.model import load_model
from sovl_daemon.laboratory.mind.adapters import DEFAULT, trainable
from sovl_daemon.models.checkpoint import shapes_of
from tests.unit.engine_tiny import save_tiny

LORA = Settings().lora_config


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("blocks", [0, 1, 8])
def test_they_are_counted_as_they_are_made(tmp_path: Path, family: str, blocks: int) -> None:
    folder = save_tiny(tmp_path, family)
    options = LoraOptions(rank=LORA.lora_rank, targets=LORA.lora_target_modules, blocks=blocks)
    model = load_model(folder, device="cpu", dtype="float32", threads=1)
    made = make_scaffold(model, options, seed=1).adapters.parameters()
    learns = sum(each.numel() for each in made if each.requires_grad)
    assert trainable(shapes_of(folder), LORA, blocks) == learns > 0


def test_rank_modules_and_blocks_make_the_number() -> None:
    assert trainable(DEFAULT, LORA, 0) == 8 * 57_600
    assert trainable(DEFAULT, LORA, 8) == 8 * 57_600 * 8 // 30
    wider = with_value(Settings(), "lora_rank", "16").lora_config
    assert trainable(DEFAULT, wider, 0) == 16 * 57_600
    other = with_value(Settings(), "lora_target_modules", '["o_proj"]').lora_config
    assert trainable(DEFAULT, other, 1) == 8 * (576 + 576)
    none = with_value(Settings(), "lora_target_modules", '["nothing"]').lora_config
    assert trainable(DEFAULT, none, 0) == 0
