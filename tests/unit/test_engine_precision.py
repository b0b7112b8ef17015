"""Switching the precision of a model that is in use."""

import asyncio
import gc
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import torch

from sovl_daemon.control.sources.process_tree import cores_of
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.errors import (
    EngineOutOfMemoryError,
    EngineStoppedError,
    ModelLoadError,
    OptionError,
)
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.llama import FusedLinear
from sovl_daemon.engine.model.precision import Precision
from sovl_daemon.engine.model.switch import MappedWeights
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.thread.inbox import call
from sovl_daemon.engine.thread.tensor_thread import Priority
from sovl_daemon.testing import PATIENCE_S
from tests.unit.engine_tiny import read, save_tiny

HELLO = [Message("user", "What is the capital of France?")]
GREEDY = SamplingOptions(temperature=0, max_new_tokens=12)
LONG = SamplingOptions(temperature=1, seed=1, max_new_tokens=100)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    folder = save_tiny(tmp_path, dtype=torch.bfloat16)
    loaded = await Engine.load(folder, device="cpu", dtype="bfloat16")
    loaded.tokenizer.stop_ids = frozenset()
    yield loaded
    await loaded.close()


def slots(engine: Engine) -> list[FusedLinear]:
    assert engine.model.lean is not None
    return [slot for layer in engine.model.lean.linears() for slot in layer]


def held(engine: Engine) -> set[str]:
    return {slot.matrix.precision for slot in slots(engine)}


def digest(engine: Engine) -> str:
    """Of every bit that the forward pass uses, and of every weight of the network."""
    tensors = [tensor for slot in slots(engine) for tensor in slot.matrix.tensors()]
    tensors += [parameter.data for parameter in engine.model.network.parameters()]
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def held_bytes(engine: Engine) -> int:
    tensors = [tensor for slot in slots(engine) for tensor in slot.matrix.tensors()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


async def answer(engine: Engine) -> str:
    return "".join([piece.text async for piece in engine.generate(HELLO, GREEDY)])


@pytest.mark.parametrize("precision", ["int8", "int4"])
async def test_there_and_back_is_bit_identical(engine: Engine, precision: Precision) -> None:
    before, text, size = digest(engine), await answer(engine), held_bytes(engine)
    assert engine.precision == "fp16"
    await engine.set_precision(precision)
    assert (engine.precision, held(engine)) == (precision, {precision, "int8"})
    assert engine.info()["precision"] == precision
    assert held_bytes(engine) < 0.6 * size
    assert await answer(engine)
    await engine.set_precision("fp16")
    assert (engine.precision, held(engine)) == ("fp16", {"fp16"})
    assert digest(engine) == before
    assert await answer(engine) == text


@pytest.mark.parametrize("precision", ["int8", "int4"])
async def test_the_logits_stay_close(engine: Engine, precision: Precision) -> None:
    ids = engine.tokenizer.encode(HELLO, 100)
    exact = read(engine.model, ids).float()
    await engine.set_precision(precision)
    close = read(engine.model, ids).float()
    error = float((close - exact).norm() / exact.norm())
    assert 0 < error < {"int8": 0.1, "int4": 0.5}[precision]


async def test_the_network_has_the_files_weights_meanwhile(engine: Engine) -> None:
    network = engine.model.network
    ids = torch.tensor([[5, 6, 7]])
    before = network(ids).logits
    pointers = {parameter.data_ptr() for parameter in network.parameters()}
    await engine.set_precision("int4")
    # Those of norms and embedding are no matrices and stay where they are.
    kept = pointers & {parameter.data_ptr() for parameter in network.parameters()}
    assert len(kept) == 2 * 2 + 1 + 1
    torch.testing.assert_close(network(ids).logits, before)


def live_tensors() -> int:
    gc.collect()
    return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())


async def cycle(engine: Engine) -> None:
    for precision in ("int8", "int4", "fp16"):
        await engine.set_precision(precision)


async def test_a_hundred_cycles_leave_nothing_behind(engine: Engine) -> None:
    before, size = digest(engine), held_bytes(engine)
    await cycle(engine)
    after_one = live_tensors()
    for _ in range(99):
        await cycle(engine)
    assert digest(engine) == before
    assert held_bytes(engine) == size
    assert live_tensors() <= after_one


async def test_a_conversation_goes_on_through_the_switch(engine: Engine) -> None:
    assert engine.model.lean is not None
    order: list[str] = []
    queued = threading.Event()
    forward, hold = engine.model.lean.forward, FusedLinear.hold

    def watched_forward(spans: Sequence[Span]) -> Any:
        order.append("token")
        # The second token waits for the switch, which could miss the whole answer otherwise.
        assert len(order) != 3 or queued.wait(PATIENCE_S)
        return forward(spans)

    def watched_hold(slot: FusedLinear, *args: Any) -> None:
        order.append("matrix")
        hold(slot, *args)

    engine.model.lean.forward = watched_forward  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedLinear, "hold", watched_hold)
        patch.setattr("sovl_daemon.engine.model.switch._AT_ONCE_S", 0)
        generation = engine.generate(HELLO, LONG)
        pieces = [await anext(generation)]
        asyncio.get_running_loop().call_later(0.1, queued.set)
        await engine.set_precision("int4")
        pieces += [piece async for piece in generation]
    assert pieces[-1].summary is not None
    assert pieces[-1].summary.finish_reason == "length"
    first, last = order.index("matrix"), len(order) - order[::-1].index("matrix")
    assert order.count("matrix") == 9
    assert order[first:last].count("token") >= 1


@pytest.mark.parametrize("start", ["fp16", "int8"])
async def test_no_memory_in_mid_switch_leaves_the_old_precision(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, start: Precision
) -> None:
    await engine.set_precision(start)
    before, text = digest(engine), await answer(engine)
    generation = engine.generate(HELLO, GREEDY)
    pieces = [await anext(generation)]
    hold, calls = FusedLinear.hold, []

    def scarce(slot: FusedLinear, *args: Any) -> None:
        calls.append(slot)
        if len(calls) == 7:
            raise MemoryError("injected")
        hold(slot, *args)

    monkeypatch.setattr(FusedLinear, "hold", scarce)
    with pytest.raises(EngineOutOfMemoryError, match="injected"):
        await engine.set_precision("int4")
    # Six were switched, the seventh failed, and the six came back.
    assert len(calls) == 13
    assert (engine.precision, held(engine)) == (start, {start})
    assert digest(engine) == before
    pieces += [piece async for piece in generation]
    assert sum(piece.tokens for piece in pieces) == 12
    assert await answer(engine) == text


async def test_a_cancelled_switch_is_rolled_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, hold, scope = digest(engine), FusedLinear.hold, anyio.CancelScope()
    loop = asyncio.get_running_loop()
    calls = []

    def cancelling(slot: FusedLinear, *args: Any) -> None:
        calls.append(slot)
        loop.call_soon_threadsafe(scope.cancel)
        hold(slot, *args)

    monkeypatch.setattr(FusedLinear, "hold", cancelling)
    with scope:
        await engine.set_precision("int8")
    assert scope.cancelled_caught
    assert calls
    assert (engine.precision, digest(engine)) == ("fp16", before)


async def test_two_switches_at_once_come_one_after_the_other(engine: Engine) -> None:
    await asyncio.gather(*(engine.set_precision(each) for each in ("int8", "int4", "int8")))
    assert (engine.precision, held(engine)) == ("int8", {"int8"})


async def test_what_is_offloaded_stays_in_the_file_and_comes_back_bit_identical(
    engine: Engine,
) -> None:
    before, text, size = digest(engine), await answer(engine), engine.model.weight_bytes
    ids = engine.tokenizer.encode(HELLO, 100)
    logits = read(engine.model, ids)
    await engine.offload(True)
    assert held(engine) == {"offloaded"}
    assert (engine.usage().precision, engine.usage().bits) == ("fp16", 0)
    assert engine.model.weight_bytes < 0.3 * size  # embedding and norms
    torch.testing.assert_close(read(engine.model, ids), logits)
    assert await answer(engine) == text
    await engine.offload(False)
    assert (engine.usage().offloaded, digest(engine)) == (False, before)


async def test_what_weights_are_held_in_later_may_change_while_they_are_offloaded(
    engine: Engine,
) -> None:
    await engine.offload(True)
    await engine.set_precision("int8")
    assert (engine.precision, held(engine)) == ("int8", {"offloaded"})
    await engine.offload(False)
    assert (engine.precision, held(engine)) == ("int8", {"int8"})


async def test_a_network_without_a_lean_pass_cannot_be_offloaded(tmp_path: Path) -> None:
    engine = await Engine.load(save_tiny(tmp_path, "gpt2"), device="cpu")
    try:
        with pytest.raises(OptionError, match="weights of this GPT2LMHeadModel cannot be offload"):
            await engine.offload(True)
        await engine.offload(False)
        assert not engine.usage().offloaded
    finally:
        await engine.close()


async def test_it_keeps_to_the_cores_it_may_have_with_all_threads(engine: Engine) -> None:
    given = cores_of(os.getpid())
    try:
        await engine.keep_to_cores(1)
        assert await anyio.to_thread.run_sync(cores_of, os.getpid()) == 1
        assert await call(engine.thread, torch.get_num_threads, Priority.JUDGE) == 1
        assert await answer(engine)
        assert engine.usage().cores == 1
    finally:
        await engine.keep_to_cores(0)
    assert (cores_of(os.getpid()), engine.usage().cores) == (given, 0)


async def test_a_closed_engine_refuses(tmp_path: Path) -> None:
    engine = await Engine.load(save_tiny(tmp_path), device="cpu", dtype="bfloat16")
    await engine.close()
    with pytest.raises(EngineStoppedError):
        await engine.set_precision("int8")
    assert engine.precision == "fp16"


@pytest.mark.parametrize(
    ("family", "dtype", "asked", "allowed"),
    [
        ("llama", "float32", "fp16", "fp32 or int8 or int4"),
        ("llama", "bfloat16", "int3", "fp16 or int8 or int4"),
        ("gpt2", "bfloat16", "int8", "fp16"),
    ],
)
async def test_what_is_not_possible_is_refused(
    tmp_path: Path, family: str, dtype: str, asked: Any, allowed: str
) -> None:
    engine = await Engine.load(save_tiny(tmp_path, family), device="cpu", dtype=dtype)
    try:
        with pytest.raises(
            OptionError, match=f"'{asked}' is not possible .* on cpu: use {allowed}$"
        ):
            await engine.set_precision(asked)
        await engine.set_precision(engine.precision)
        assert await answer(engine)
    finally:
        await engine.close()


async def test_weights_stored_in_another_format_come_back_the_same(tmp_path: Path) -> None:
    """A float32 file, held in float16: the master is converted the same way each time."""
    engine = await Engine.load(save_tiny(tmp_path), device="cpu", dtype="float16")
    try:
        before = digest(engine)
        for precision in ("int8", "int4", "fp16"):
            await engine.set_precision(precision)
            assert await answer(engine)
        assert digest(engine) == before
    finally:
        await engine.close()


def test_the_master_reads_shards_and_names_what_is_missing(tmp_path: Path) -> None:
    from tests.unit.engine_tiny import tiny_network

    network = tiny_network("llama")
    network.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    master = MappedWeights(tmp_path)
    for name, weight in network.state_dict().items():
        assert torch.equal(master.tensor(name), weight)
    with pytest.raises(ModelLoadError, match=r"lack model\.nothing: pull the model again"):
        master.tensor("model.nothing")


def test_a_folder_without_weights_has_no_master(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot read the weights"):
        MappedWeights(tmp_path)
