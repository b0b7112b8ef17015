"""Everything lies on the model's device, tried without a GPU.

"meta" stands for it: tensors there have a shape and no data. What torch refuses on real devices, an
operation on tensors of two of them, is refused here by a dispatch mode.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sovl_daemon.engine.fusion.cross_attention import CrossAttention
from sovl_daemon.engine.fusion.fusion import Fusion, ScaffoldTokens
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import make_scaffold
from sovl_daemon.engine.fusion.steering import Influence
from sovl_daemon.engine.learning.activation_cache import ActivationCache
from sovl_daemon.engine.learning.base_pass import base_pass
from sovl_daemon.engine.model.allocator import return_free_memory
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.llama_finder import build_llama
from sovl_daemon.engine.model.matrix import stack
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.model.precision import DtypeChoice
from sovl_daemon.engine.model.switch import PrecisionSwitch
from sovl_daemon.engine.serving import sampling
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from tests.unit.engine_tiny import VOCABULARY, tiny_network
from tests.unit.test_engine_bnb_matrix import stand_in

GPU = torch.device("meta")


class OneDevice(TorchDispatchMode):  # type: ignore[misc] # torch is untyped here
    """Refuses operations on tensors of two devices, but for copies and single numbers."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        devices = {each.device for each in given if each.ndim}
        copies = function.overloadpacket is torch.ops.aten.copy_
        assert copies or len(devices) < 2, f"{function} on {devices}"
        return SHAPES_ALONE.get(str(function), function)(*args, **(kwargs or {}))


def no_large_column(x: torch.Tensor, threshold: float = 0) -> tuple[torch.Tensor, ...]:
    whole, highest, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(x)
    return whole, highest, torch.empty(0, dtype=torch.int64, device=x.device)


def product(
    x: torch.Tensor, whole: torch.Tensor, values: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(len(whole), len(values)), x[:, :0]


# Which columns are large depends on data: of shapes alone these two cannot tell.
SHAPES_ALONE = {
    "bitsandbytes.int8_vectorwise_quant.default": no_large_column,
    "bitsandbytes.int8_mixed_scaled_mm.default": product,
}


@pytest.fixture(autouse=True)
def one_device() -> Iterator[None]:
    with OneDevice():
        yield


def test_the_guard_sees_two_devices() -> None:
    with pytest.raises(AssertionError, match=r"aten\.add\.Tensor"):
        torch.ones(2) + torch.ones(2, device=GPU)


class ShapesOnly:
    """Weights of the right shapes, on the CPU as those of a file are."""

    def __init__(self, network: Any) -> None:
        self._shapes = {name: weight.shape for name, weight in network.state_dict().items()}

    def tensor(self, name: str) -> torch.Tensor:
        return torch.empty(self._shapes[name], dtype=torch.float16)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovl_daemon.engine.model.llama.stack", stand_in)


def model(*, lean: bool = True) -> LoadedModel:
    with torch.device(GPU):
        network = tiny_network("llama")
    choice = DtypeChoice(torch.float32, "test")
    found = build_llama(network, "fp32") if lean else None
    return LoadedModel(network, GPU, choice, 128, found, ShapesOnly(network))  # type: ignore[arg-type]


def spans(of: LoadedModel) -> list[Span]:
    """A prompt, two answers of one length, and one of another in a cache of the same capacity."""
    caches = [of.new_cache() for _ in range(4)]
    for cache, length in zip(caches[1:], (20, 20, 30), strict=True):
        of.forward([Span(range(length), cache)])
    return [Span(range(7), caches[0]), *(Span([1], cache) for cache in caches[1:])]


@pytest.mark.parametrize("lean", [True, False])
def test_answers_of_several_conversations(lean: bool) -> None:
    loaded = model(lean=lean)
    logits = loaded.forward(spans(loaded))
    assert (logits.device, logits.shape) == (GPU, (4, VOCABULARY))


def test_a_kept_prompt() -> None:
    loaded = model()
    caches = PrefixCache(loaded, 2**20)
    cache = caches.lend(range(40))
    loaded.forward([Span(range(40), cache)])
    caches.keep(range(40), cache, caches.stamp)
    for prompt in ([*range(17), *range(60, 90)], [*range(30), 9]):
        again = caches.lend(prompt)
        assert again.length
        logits = loaded.forward([Span(prompt[again.length :], again)])
        assert logits.device == GPU


@pytest.mark.parametrize("precision", ["int8", "int4", "fp32"])
def test_a_switch_of_precision(precision: Any) -> None:
    loaded = model()
    assert loaded.lean is not None
    switch = PrecisionSwitch(loaded.lean, loaded.mapped_weights, precision)  # type: ignore[arg-type]
    before = spans(loaded)
    while switch.step():
        assert loaded.forward([Span(range(3), loaded.new_cache())]).device == GPU
    held = [tensor for layer in loaded.lean.linears() for tensor in layer[0].matrix.tensors()]
    assert {tensor.device for tensor in held} == {GPU}
    assert {slot.matrix.precision for layer in loaded.lean.linears() for slot in layer} <= {
        precision,
        "int8" if precision == "int4" else precision,
    }
    assert loaded.forward(before).device == GPU


def test_what_is_offloaded_stays_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovl_daemon.engine.model.llama.stack", stack)
    loaded = model()
    assert loaded.lean is not None
    before = spans(loaded)
    switch = PrecisionSwitch(loaded.lean, loaded.mapped_weights, "offloaded")  # type: ignore[arg-type]
    while switch.step():
        assert loaded.forward([Span(range(3), loaded.new_cache())]).device == GPU
    held = [tensor for layer in loaded.lean.linears() for tensor in layer[0].matrix.tensors()]
    assert {tensor.device.type for tensor in held} == {"cpu"}
    assert loaded.forward(before).device == GPU


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_that_is_only_mapped_from_its_file(tied: bool) -> None:
    loaded = model()
    assert loaded.lean is not None
    if tied:
        loaded.network.model.embed_tokens.weight = torch.nn.Parameter(
            torch.empty(VOCABULARY, 32, dtype=torch.float32, device="cpu"), requires_grad=False
        )
    assert loaded.lean.embed([1, 2]).device == GPU
    assert loaded.forward(spans(loaded)).device == GPU


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("weights", [1.0, 2.0])
def test_fusion(monkeypatch: pytest.MonkeyPatch, lean: bool, weights: float) -> None:
    monkeypatch.setattr(CrossAttention, "fresh", False)
    monkeypatch.setattr(
        Fusion,
        "translate",
        lambda _, ids: ScaffoldTokens(ids, [weights] * len(ids), [1] * len(ids)),
    )
    base = model()
    twin = base if lean else model(lean=False)
    scaffold = make_scaffold(twin, LoraOptions(), seed=0)
    assert {each.device for each in scaffold.adapters.parameters() if each.requires_grad} == {GPU}
    fusion = Fusion(base, scaffold, rank=16, heads=4, seed=0)
    fusion.set((0, 1), Influence())
    cache = base.new_cache()
    base.listen(range(20), cache, since=19)
    logits = base.forward([Span(range(20), cache)])
    logits = base.forward([Span([3], cache), *spans(base)[:2]])
    assert (logits.device, len(logits)) == (GPU, 3)


def test_sampling() -> None:
    logits = torch.empty(2, VOCABULARY, device=GPU)
    options = [SamplingOptions(temperature=0.7, top_k=20, top_p=0.9), SamplingOptions(top_k=20)]
    probabilities, ids = sampling.candidates(logits, options)
    assert probabilities.device == ids.device == GPU
    assert sampling.penalise(logits[0], [1, 2, 2], 1.2).device == GPU


def test_free_memory_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[str]()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    return_free_memory(torch.device("cpu"))
    assert calls == []
    loaded = model()
    assert loaded.lean is not None
    switch = PrecisionSwitch(loaded.lean, loaded.mapped_weights, "int8")  # type: ignore[arg-type]
    switch._device = torch.device("cuda")
    switch.step()
    switch.roll_back()
    assert calls == ["emptied", "emptied"]


@pytest.mark.parametrize("precision", ["int8", "int4", "fp32"])
def test_learning_beside_it(precision: Any) -> None:
    loaded = model()
    assert loaded.lean is not None
    switch = PrecisionSwitch(loaded.lean, loaded.mapped_weights, precision)  # type: ignore[arg-type]
    while switch.step():
        pass
    reading = base_pass(loaded, (0,), ActivationCache(2**20))
    turns = [(tuple(range(9)), (1, 2, 3)), (tuple(range(5)), (4, 5))]
    hidden = reading.steered(turns, 2, lambda _, x: x)
    assert (hidden.device, hidden.shape) == (GPU, (2, 3, 32))
    assert reading.plain(turns, 2).device == GPU
    assert reading.head(hidden[0]).device == GPU
