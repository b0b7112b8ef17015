"""The engine with the real default model."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sovl_daemon.engine.decode import Decoding
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.fusion import Fusion
from sovl_daemon.engine.influence import Influence
from sovl_daemon.engine.lora import LoraOptions
from sovl_daemon.engine.message import Message
from sovl_daemon.engine.model import LoadedModel, load_model
from sovl_daemon.engine.options import SamplingOptions
from sovl_daemon.engine.piece import Summary
from sovl_daemon.engine.precision import DtypeChoice
from sovl_daemon.engine.scaffold import make_scaffold
from tests.unit.engine_tiny import generated, read

pytestmark = pytest.mark.model

QUESTIONS = [
    "What is the capital of France?",
    "Write two lines about a fox.",
    "How much is 12 + 7?",
    "日本の首都はどこですか。",
    "Name three colours. " * 40,
]
GREEDY = SamplingOptions(temperature=0, max_new_tokens=48)


@pytest.fixture(scope="module")
def chats(default_model: Path) -> Any:
    from sovl_daemon.engine.chat import ChatTokenizer

    return ChatTokenizer.load(default_model)


@pytest.fixture(scope="module")
def model(default_model: Path) -> Any:
    return load_model(default_model, device="cpu", dtype="float32", threads=1)


@pytest.mark.parametrize("question", QUESTIONS, ids=range(5))
def test_greedy_answers_are_those_of_generate(model: Any, chats: Any, question: str) -> None:
    prompt = chats.encode([Message("user", question)], 2000)
    running = Decoding(model, prompt, GREEDY, stop_ids=chats.stop_ids, context_length=2048)
    ours = [token.id for token in running.steps() if token is not None]
    assert ours == generated(model.network, prompt, 48, eos_token_id=list(chats.stop_ids))


async def told(engine: Engine, question: str, options: SamplingOptions) -> tuple[str, Summary]:
    pieces = [piece async for piece in engine.generate([Message("user", question)], options)]
    summary = pieces[-1].summary
    assert summary is not None
    return "".join(piece.text for piece in pieces), summary


@pytest.mark.parametrize("dtype", ["auto", "float32"])
async def test_it_knows_paris_and_stops_by_itself(default_model: Path, dtype: str) -> None:
    engine = await Engine.load(default_model, device="cpu", dtype=dtype)
    try:
        # Asked QUESTIONS[0] it begins with "The" or "L'", 15 to 14 %: rounding decides.
        text, summary = await told(engine, "Tell me the capital of France.", GREEDY)
    finally:
        await engine.close()
    assert "Paris" in text
    assert "<|im_end|>" not in text
    assert summary.finish_reason == "stop"


async def test_seeds_hold_beside_other_conversations(default_model: Path) -> None:
    engine = await Engine.load(default_model, device="cpu")
    options = [SamplingOptions(temperature=1, seed=s, max_new_tokens=16) for s in (1, 2, 3)]
    try:
        alone = [(await told(engine, QUESTIONS[1], option))[0] for option in options]
        beside = await asyncio.gather(*(told(engine, QUESTIONS[1], o) for o in options))
    finally:
        await engine.close()
    assert [text for text, _ in beside] == alone
    assert len(set(alone)) == 3


def test_the_automatic_format_agrees_with_full_precision(
    default_model: Path, model: Any, chats: Any
) -> None:
    half = load_model(default_model, device="cpu", dtype="auto", threads=1)
    half.warm_up()
    prompt = chats.encode([Message("user", QUESTIONS[0])], 2000)
    exact = read(model, prompt).log_softmax(0)
    cache = half.new_cache()
    read(half, prompt[:-1], cache)
    close = read(half, prompt[-1:], cache).float().log_softmax(0)
    divergence = torch.nn.functional.kl_div(close, exact, log_target=True, reduction="sum")
    assert 0 <= float(divergence) < 0.05


def test_fusion_is_exact_when_off_and_steers_when_on(default_model: Path, model: Any) -> None:
    """Through transformers' own forward pass, bit for bit; the scaffold is the model itself."""
    network = AutoModelForCausalLM.from_pretrained(default_model, dtype=torch.float32)
    base = LoadedModel(network, torch.device("cpu"), DtypeChoice(torch.float32, "test"), 2048)
    ids = list(range(200, 240))
    expected = network(torch.tensor([ids]), use_cache=True, logits_to_keep=1).logits[0, -1]
    scaffold = make_scaffold(model, LoraOptions(), seed=0)
    fusion = Fusion(base, scaffold, rank=128, heads=4, seed=0)

    def logits() -> torch.Tensor:
        cache = base.new_cache()
        base.listen(ids, cache, since=len(ids) - 1)
        return read(base, ids, cache)

    fusion.set([5, 7], Influence())
    assert torch.equal(logits(), expected)  # fresh
    for layer in (5, 7):
        torch.nn.init.normal_(fusion.attention(layer).output.weight, std=0.1)
    fusion.refresh()
    assert fusion.active == (5, 7)
    assert not torch.equal(logits(), expected)
    fusion.set([5, 7], Influence(weight=0))
    assert torch.equal(logits(), expected)
    fusion.set([5, 7], Influence())
    fusion.unload()
    assert torch.equal(logits(), expected)
