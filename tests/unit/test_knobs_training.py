"""The knobs of training on pairs change how it is laid out and how it learns."""

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.training.session import Dataset, TrainingSession
from config import Settings, with_value
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import FusionOptions
from tests.unit.engine_tiny import save_tiny

PAIRS = 20


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    path = save_tiny(tmp_path / "base")
    loaded = await Engine.load(path, device="cpu", dtype="float32")
    await loaded.fuse(path, FusionOptions(lora=LoraOptions(rank=2, alpha=4), heads=2, head_size=4))
    yield loaded
    await loaded.close()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    each = [
        {"prompt": f"What is fox {number:02d}?", "response": "It is the quick brown fox. " * 3}
        for number in range(PAIRS)
    ]
    file.write_text("\n".join(map(json.dumps, each)))
    return file


def session(engine: Engine, **values: str) -> TrainingSession:
    settings = with_value(Settings(), "core_config.cross_attn_layers", "[0, 1]")
    for key, value in values.items():
        name = key.replace("__", ".")
        name = name if name.startswith("core_config.") else f"training_config.{name}"
        settings = with_value(settings, name, value)
    return TrainingSession(engine, settings, stage=0.0)


async def laid_out(engine: Engine, pairs: Path, *, dry: bool = False, **values: str) -> Dataset:
    return await session(engine, **values).dataset(pairs, epochs=None, skip_bad=False, dry=dry)


def lengths(dataset: Dataset) -> set[int]:
    return {len(each.prompt) + len(each.answer) for each in dataset.curriculum.lessons}


async def test_epochs_and_batches(engine: Engine, pairs: Path) -> None:
    usual = (await laid_out(engine, pairs)).curriculum
    lessons = len(usual.lessons)
    assert usual.steps == 3 * math.ceil(lessons / 2)
    longer = (await laid_out(engine, pairs, train_epochs="5")).curriculum
    assert longer.steps == 5 * math.ceil(lessons / 2)
    wider = (await laid_out(engine, pairs, batch_size="4")).curriculum
    assert wider.steps == 3 * math.ceil(lessons / 4)
    assert max(len(batch) for batch in wider.batches()) == 4


async def test_the_split_holds_pairs_back(engine: Engine, pairs: Path) -> None:
    held = [
        len((await laid_out(engine, pairs, core_config__valid_split_ratio=ratio)).validation)
        for ratio in ("0", "0.2", "0.8")
    ]
    assert held[0] == 0 < held[1] < held[2] < PAIRS


async def test_the_seed_chooses_what_is_held_back(engine: Engine, pairs: Path) -> None:
    one, same, other = [
        (await laid_out(engine, pairs, core_config__random_seed=seed)).validation
        for seed in ("1", "1", "2")
    ]
    assert one == same
    assert one != other


async def test_what_is_too_long_is_cut(engine: Engine, pairs: Path) -> None:
    assert min(lengths(await laid_out(engine, pairs))) > 64
    assert lengths(await laid_out(engine, pairs, max_seq_length="64")) == {64}


async def test_a_dry_run_is_small(engine: Engine, pairs: Path) -> None:
    usual = await laid_out(engine, pairs, dry=True)
    assert len(usual.curriculum.lessons) + len(usual.validation) == 2
    more = await laid_out(engine, pairs, dry=True, dry_run_params__max_samples="10")
    assert len(more.curriculum.lessons) + len(more.validation) == 10
    short = await laid_out(engine, pairs, dry=True, dry_run_params__max_length="32")
    assert lengths(short) == {32}


@pytest.mark.parametrize(("steps", "updates"), [("1", 3), ("3", 1), ("4", 0)])
async def test_so_many_batches_make_one_update(
    engine: Engine, pairs: Path, steps: str, updates: int
) -> None:
    taught = session(engine, accumulation_steps=steps)
    curriculum = (await taught.dataset(pairs, epochs=1, skip_bad=False, dry=False)).curriculum
    learner = await taught.learner(curriculum, night=False)
    assert len([each async for each in taught.steps(learner, curriculum, limit=3)]) == 3
    assert learner.updates == updates


async def test_the_learning_rate_is_the_pace_of_a_training(engine: Engine, pairs: Path) -> None:
    moved = []
    for rate in ("1e-5", "1e-2"):
        taught = session(engine, learning_rate=rate, accumulation_steps="1")
        curriculum = (await taught.dataset(pairs, epochs=1, skip_bad=False, dry=False)).curriculum
        learner = await taught.learner(curriculum, night=False)
        before = await taught.on_thread(learner.candidate.state)
        async for _ in taught.steps(learner, curriculum, limit=4):
            pass
        after = await taught.on_thread(learner.candidate.state)
        moved.append(sum(float((after[name] - before[name]).abs().sum()) for name in after))
    assert 0 < moved[0] < moved[1] / 10
