"""The judge asks the plain base, and reads what it knows but once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.errors import OptionError, PromptTooLongError
from sovl_daemon.engine.message import Message
from sovl_daemon.engine.options import SamplingOptions
from tests.unit.engine_tiny import read, save_tiny

PREFIX = "True or false? What is the "  # of 128 positions
TEXTS = ("lazy dog", "quick fox")


@pytest.fixture(params=["llama", "gpt2"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    loaded = await Engine.load(
        save_tiny(tmp_path, request.param), device="cpu", dtype="float32", context_length=128
    )
    yield loaded
    await loaded.close()


def prompt(engine: Engine, text: str) -> list[int]:
    return engine.tokenizer.encode([Message("user", PREFIX + text)], 127)


async def test_what_is_kept_changes_no_verdict(engine: Engine) -> None:
    first, second = [await engine.judge(PREFIX, text) for text in TEXTS]
    fresh = Engine(engine.model, engine.tokenizer, engine.thread, context_length=128)
    alone = await fresh.judge(PREFIX, TEXTS[1])
    assert first.read_tokens == len(prompt(engine, TEXTS[0]))
    assert second.read_tokens < alone.read_tokens == len(prompt(engine, TEXTS[1]))
    assert second.p_true == pytest.approx(alone.p_true, rel=1e-4)
    assert second.p_false == pytest.approx(alone.p_false, rel=1e-4)


async def test_the_probabilities_are_those_of_the_answers_first_tokens(engine: Engine) -> None:
    found = await engine.judge(PREFIX, TEXTS[0])
    chances = torch.softmax(read(engine.model, prompt(engine, TEXTS[0])), dim=-1)
    words = {
        True: ("true", "True", "TRUE", " true", " True", " TRUE"),
        False: ("false", "False", "FALSE", " false", " False", " FALSE"),
    }
    ids = {
        answer: {engine.tokenizer.encode_text(word)[0] for word in each}
        for answer, each in words.items()
    }
    both = ids[True] & ids[False]  # says neither
    assert found.p_true == pytest.approx(float(chances[sorted(ids[True] - both)].sum()), rel=1e-4)
    assert found.p_false == pytest.approx(float(chances[sorted(ids[False] - both)].sum()), rel=1e-4)
    assert 0 < found.p_true + found.p_false < 1


async def test_what_does_not_fit_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptTooLongError):
        await engine.judge("x" * 500, "")


async def test_usage_tells_what_is_set_and_held(engine: Engine) -> None:
    await engine.resize_prefix_cache(1 << 20)
    await engine.admit(3)
    engine.tokenizer.stop_ids = frozenset()  # long enough to be seen
    options = SamplingOptions(temperature=0, max_new_tokens=80)
    messages = [Message("user", "What is the capital of France?")]
    held = [await engine.answer_bytes() async for _ in engine.generate(messages, options)]
    assert held[0] > 0
    usage = engine.usage()
    assert (usage.max_concurrent, usage.max_prefix_bytes) == (3, 1 << 20)
    assert (usage.precision, usage.bits) == ("fp16", 32)  # "fp16" stands for as it was loaded
    assert (usage.running, usage.waiting, await engine.answer_bytes()) == (0, 0, 0)
    assert 0 < usage.prefix_bytes <= 1 << 20
    await engine.drop_prefixes()
    assert engine.usage().prefix_bytes == 0


async def test_nobody_admitted_is_refused(engine: Engine) -> None:
    with pytest.raises(OptionError, match="max_concurrent 0: give at least 1"):
        await engine.admit(0)
