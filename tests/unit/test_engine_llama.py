from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.llama import RmsNorm, SequenceRows
from sovl_daemon.engine.model.llama_finder import find_llama
from tests.unit.engine_tiny import read, tiny_model, tiny_network

IDS = [5, 7, 300, 2, 9, 41, 8]


def test_the_lean_pass_gives_the_networks_logits() -> None:
    lean, plain = tiny_model(), tiny_model(lean=False)
    assert lean.lean is not None
    fast, slow = lean.new_cache(), plain.new_cache()
    for part in (IDS[:4], IDS[4:6], IDS[6:]):
        torch.testing.assert_close(
            read(lean, part, fast), read(plain, part, slow), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"head_dim": 16},
        {"rms_norm_eps": 0.5},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}},
    ],
    ids=str,
)
def test_every_shape_of_the_family_is_found(changes: dict[str, Any]) -> None:
    network = tiny_network("llama", **changes)
    expected = network(torch.tensor([IDS])).logits[0, -1]
    lean = find_llama(network)
    assert lean is not None
    with torch.no_grad():
        logits = lean.forward([Span(IDS, lean.new_cache())])[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def with_bias(network: Any) -> None:
    projection = network.model.layers[1].self_attn.q_proj
    projection.bias = torch.nn.Parameter(torch.ones(len(projection.weight)))


def with_a_norm_of_queries(network: Any) -> None:
    network.model.layers[0].self_attn.q_norm = torch.nn.Identity()


def with_a_window(network: Any) -> None:
    network.config.sliding_window = 4


def with_another_activation(network: Any) -> None:
    network.model.layers[1].mlp.act_fn = torch.nn.GELU()


def with_scaled_logits(network: Any) -> None:
    network.lm_head.register_forward_hook(lambda *call: call[-1] / 8)


@pytest.mark.parametrize(
    "change",
    [with_bias, with_a_norm_of_queries, with_a_window, with_another_activation, with_scaled_logits],
)
def test_a_relative_of_the_family_stays_with_transformers(change: Callable[[Any], None]) -> None:
    network = tiny_network("llama")
    change(network)
    expected = network(torch.tensor([IDS])).logits
    assert find_llama(network) is None
    assert torch.equal(network(torch.tensor([IDS])).logits, expected)


def test_another_family_is_left_alone() -> None:
    network = tiny_network("gpt2")
    before = [parameter.data_ptr() for parameter in network.parameters()]
    assert find_llama(network) is None
    assert [parameter.data_ptr() for parameter in network.parameters()] == before


def test_the_networks_weights_are_those_of_the_lean_pass() -> None:
    model = tiny_model()
    assert model.lean is not None
    held = model.lean.blocks[0].qkv.matrix.tensors()[0]
    attention = model.network.model.layers[0].self_attn
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    assert torch.equal(torch.cat(parts), held)
    assert {part.untyped_storage().data_ptr() for part in parts} == {
        held.untyped_storage().data_ptr()
    }


@pytest.mark.parametrize(("family", "lean"), [("llama", True), ("llama", False), ("gpt2", False)])
def test_a_hook_may_add_behind_a_block(family: str, lean: bool) -> None:
    model = tiny_model(family, lean=lean)
    plain = read(model, IDS)
    seen: list[tuple[tuple[int, ...], Any]] = []

    def add(x: torch.Tensor, rows: Sequence[SequenceRows]) -> torch.Tensor:
        seen.append((tuple(x.shape), rows[0].cache))
        return x + 1

    remove = model.add_after_block(0, add)
    cache = model.new_cache()
    changed = read(model, IDS, cache)
    assert seen == [((len(IDS), 32), cache)]
    assert not torch.allclose(changed, plain)
    remove()
    assert torch.equal(read(model, IDS), plain)


@pytest.mark.parametrize("lean", [True, False])
def test_conversations_read_together_read_as_if_alone(lean: bool) -> None:
    model = tiny_model(lean=lean)
    texts = [[3, 4, 5, 6], [9], [8, 7, 300, 2, 9]]
    together, alone = ([model.new_cache() for _ in texts] for _ in range(2))
    for count in (1, 2):
        spans = [Span(ids[-count:], cache) for ids, cache in zip(texts, together, strict=True)]
        logits = model.forward(spans)
        for span, own, row in zip(spans, alone, logits, strict=True):
            torch.testing.assert_close(row, read(model, span.ids, own), atol=1e-4, rtol=1e-4)
            assert span.cache.length == own.length


@pytest.mark.parametrize("lean", [True, False])
def test_a_truncated_cache_has_forgotten_the_rest(lean: bool) -> None:
    model = tiny_model(lean=lean)
    cache = model.new_cache()
    read(model, IDS, cache)
    cache.truncate(3)
    assert cache.length == 3
    torch.testing.assert_close(read(model, [1, 2], cache), read(model, [*IDS[:3], 1, 2]))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_the_root_mean_square(rows: int, dtype: torch.dtype) -> None:
    x, weight = torch.randn(rows, 48).to(dtype) + 3, torch.randn(48).to(dtype)
    expected = torch.nn.functional.rms_norm(x.float(), (48,), weight.float(), 1e-3).to(dtype)
    torch.testing.assert_close(RmsNorm(weight, 1e-3)(x), expected)
