"""Fusion on tiny models: GPT-2 and Llama bases, each beside scaffolds of either family."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.fusion.cross_attention import MemoryKeyValues
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.fusion.lora import LoraOptions, lora_layers
from sovl_daemon.engine.fusion.scaffold import make_scaffold
from sovl_daemon.engine.fusion.steering import Influence
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.model import LoadedModel
from tests.unit.engine_tiny import tiny_model, tiny_network

PROMPT = [5, 7, 300, 2, 9, 41, 8]
FULL = Influence(cap=1.0)
# Base, whether it answers through the lean pass, scaffold ("itself": the base's own weights).
PAIRS = [
    ("llama", True, "itself"),
    ("llama", True, "gpt2"),
    ("llama", True, "llama"),
    ("llama", False, "gpt2"),
    ("gpt2", False, "gpt2"),
    ("gpt2", False, "llama"),
]


def pair(base: str = "llama", lean: bool = True, scaffold: str = "itself") -> Fusion:
    model = tiny_model(base, lean=lean)
    other = model if scaffold == "itself" else tiny_model(scaffold)
    options = LoraOptions(rank=2, alpha=4)
    return Fusion(model, make_scaffold(other, options, seed=1), rank=8, heads=2, seed=3)


def taught(fusion: Fusion) -> Fusion:
    """As after training: the output projections are not zero any more."""
    torch.manual_seed(5)
    for layer in (0, 1):
        torch.nn.init.normal_(fusion.attention(layer).output.weight, std=0.5)
    fusion.refresh()
    return fusion


def logits(fusion: Fusion, prompt: Sequence[int] = PROMPT, since: int | None = None) -> Any:
    model = fusion._base
    cache = model.new_cache()
    model.listen(prompt, cache, since=len(prompt) - 1 if since is None else since)
    return model.forward([Span(prompt, cache)])[0]


def plain(base: str, lean: bool = True) -> Any:
    model = tiny_model(base, lean=lean)
    return model.forward([Span(PROMPT, model.new_cache())])[0]


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def fused(request: pytest.FixtureRequest) -> Fusion:
    fusion = taught(pair(*request.param))
    fusion.set([0, 1], FULL)
    return fusion


def of(request: pytest.FixtureRequest) -> tuple[str, bool]:
    base, lean, _ = request.node.callspec.params["fused"]
    return base, lean


def test_it_steers(fused: Fusion, request: pytest.FixtureRequest) -> None:
    assert fused.active == (0, 1)
    assert not torch.allclose(logits(fused), plain(*of(request)), atol=1e-2)


def test_weight_zero_is_the_base(fused: Fusion, request: pytest.FixtureRequest) -> None:
    for off in (Influence(weight=0), Influence(blend=0), Influence(cap=0), Influence(factor=0)):
        fused.set([0, 1], off)
        assert fused.active == ()
        assert torch.equal(logits(fused), plain(*of(request)))


def test_no_layer_is_the_base(fused: Fusion, request: pytest.FixtureRequest) -> None:
    fused.set([], FULL)
    assert torch.equal(logits(fused), plain(*of(request)))


def test_after_unloading_it_is_the_base(fused: Fusion, request: pytest.FixtureRequest) -> None:
    base = fused._base
    fused.unload()
    assert base.fusion is None
    assert torch.equal(logits(fused), plain(*of(request)))


@pytest.mark.parametrize("names", PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def test_fresh_it_is_the_base(names: tuple[str, bool, str]) -> None:
    fusion = pair(*names)
    fusion.set([0, 1], FULL)
    assert fusion.active == ()
    assert torch.equal(logits(fusion), plain(names[0], names[1]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_through_transformers_it_is_the_network_bit_for_bit(family: str) -> None:
    network = tiny_network(family)
    # As the engine asks: with a cache, and the logits of the last position alone.
    asked = {"use_cache": True, "logits_to_keep": 1}
    expected = network(torch.tensor([PROMPT]), **asked).logits[0, -1]
    fusion = pair(family, False, "llama")
    fusion.set([0, 1], FULL)
    assert torch.equal(logits(fusion), expected)
    taught(fusion)
    assert not torch.equal(logits(fusion), expected)
    fusion.set([0, 1], Influence(weight=0))
    assert torch.equal(logits(fusion), expected)
    fusion.set([0, 1], FULL)
    fusion.unload()
    assert torch.equal(logits(fusion), expected)


def test_the_names_of_the_bases_weights_stay(fused: Fusion, request: pytest.FixtureRequest) -> None:
    base, _ = of(request)
    assert list(fused._base.network.state_dict()) == list(tiny_network(base).state_dict())


STEERED = taught(pair())
shares = st.integers(1, 20).map(lambda twentieths: twentieths / 20)


def said(influence: Influence) -> Any:
    STEERED.set([0, 1], influence)
    return logits(STEERED)


@given(shares, shares)
def test_every_weight_counts(one: float, other: float) -> None:
    """Each of the five, with the others at 1, scales what the layers add; so all mean the same."""

    def five(share: float) -> list[Any]:
        return [
            said(Influence(weight=share, cap=1)),
            said(Influence(cap=share)),
            said(Influence(cap=1, blend=share)),
            said(Influence(cap=1, factor=share)),
            said(Influence(cap=1, layer_weights=(share, share))),
        ]

    first, second = five(one), five(other)
    assert all(torch.equal(each, first[0]) for each in first)
    assert all((one == other) == torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert not torch.equal(first[0], plain("llama"))


@given(shares, shares)
def test_each_layer_has_its_own_weight(one: float, other: float) -> None:
    there = said(Influence(cap=1, layer_weights=(one, other)))
    back = said(Influence(cap=1, layer_weights=(other, one)))
    assert (one == other) == torch.equal(there, back)


def test_each_layer_counts() -> None:
    fusion = taught(pair())
    found = [plain("llama")]
    for layers in ([0], [1], [0, 1]):
        fusion.set(layers, FULL)
        found.append(logits(fusion))
    assert len({tuple(each.tolist()) for each in found}) == 4


def test_a_mistake_changes_nothing(fused: Fusion) -> None:
    before = logits(fused)
    for layers, influence in (
        ([2], FULL),
        ([-1], FULL),
        ([0, 1], Influence(layer_weights=(1.0,))),
    ):
        with pytest.raises(OptionError):
            fused.set(layers, influence)
    assert (fused.layers, fused.influence) == ((0, 1), FULL)
    assert torch.equal(logits(fused), before)


def test_the_scaffold_hears_the_prompt(fused: Fusion) -> None:
    """The same base tokens beside another memory give other logits."""
    model = fused._base
    found = []
    for heard in (PROMPT, [*reversed(PROMPT)], [*PROMPT[:3], 77, *PROMPT[4:]], PROMPT[:4]):
        cache = model.new_cache()
        model.listen(heard, cache, since=0)
        found.append(tuple(model.forward([Span(PROMPT, cache)])[0].tolist()))
    assert len(set(found)) == 4


def test_each_key_of_the_memory_counts_by_the_query(fused: Fusion) -> None:
    """A memory pooled to one key would give every query the same."""
    attention = fused.attention(0)
    memory = MemoryKeyValues(*attention.project(torch.randn(6, fused.scaffold.width)), None)
    x = torch.randn(2, 32)
    whole = attention(x, [slice(0, 2)], [memory])
    assert not torch.allclose(whole[0], whole[1], atol=1e-3)
    masked = []
    for hidden in range(6):
        bias = torch.zeros(1, 6)
        bias[0, hidden] = float("-inf")
        less = MemoryKeyValues(memory.keys, memory.values, bias)
        masked.append(attention(x, [slice(0, 2)], [less]))
    for one in masked:
        assert not torch.allclose(one, whole, atol=1e-4)
    # What a query loses with a key depends on the query: attention, not a sum.
    assert not torch.allclose((whole - masked[0])[0], (whole - masked[0])[1], atol=1e-4)


def test_in_parts_and_truncated_the_memory_is_the_same(fused: Fusion) -> None:
    model = fused._base
    cache = model.new_cache()
    longer = [*PROMPT[:4], 99, 98]
    for end in (2, 4, 6):
        model.listen(longer[:end], cache, since=5)
        model.forward([Span(longer[cache.length : end], cache)])
    cache.truncate(4)
    assert (cache.length, cache.memory.length) == (4, 4)
    model.listen(PROMPT, cache, since=6)
    found = model.forward([Span(PROMPT[4:], cache)])[0]
    torch.testing.assert_close(found, logits(fused), atol=1e-4, rtol=1e-4)


def test_conversations_with_different_memories_share_a_step(fused: Fusion) -> None:
    model = fused._base
    prompts = [PROMPT, [9, 8], [3, 4, 5, 6]]
    caches = [model.new_cache() for _ in prompts]
    for prompt, cache in zip(prompts[:2], caches[:2], strict=True):  # the third has no memory
        model.listen(prompt, cache, since=len(prompt) - 1)
    spans = [Span(prompt, cache) for prompt, cache in zip(prompts, caches, strict=True)]
    together = [model.forward(spans), model.forward([Span([11], cache) for cache in caches])]
    for index, prompt in enumerate(prompts):
        cache = model.new_cache()
        if index < 2:
            model.listen(prompt, cache, since=len(prompt) - 1)
        alone = [model.forward([Span(ids, cache)])[0] for ids in (prompt, [11])]
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[index], theirs, atol=1e-4, rtol=1e-4)


def test_the_prompt_is_read_as_the_base_reads_it(fused: Fusion, request: Any) -> None:
    """Only positions from `since` on are steered, so a prompt's cache serves everyone."""
    assert torch.equal(logits(fused, since=len(PROMPT)), plain(*of(request)))


def test_adapters_change_what_the_scaffold_says(fused: Fusion) -> None:
    before = logits(fused)
    stamp = fused.stamp
    with torch.no_grad():
        for layer in lora_layers(fused.scaffold.adapters).values():
            layer.lora_B["default"].weight.fill_(0.5)
    fused.refresh()
    after = logits(fused)
    assert fused.stamp != stamp
    assert not torch.allclose(after, before, atol=1e-3)
    fused.scaffold.adapters.disable_adapter_layers()
    torch.testing.assert_close(logits(fused), before, atol=1e-5, rtol=1e-5)


def test_a_model_is_its_own_scaffold_without_a_copy() -> None:
    model = tiny_model()
    scaffold = make_scaffold(model, LoraOptions(rank=2), seed=0)
    trained = [p for p in scaffold.adapters.parameters() if p.device.type != "meta"]
    assert {p.requires_grad for p in trained} == {True}
    assert len(trained) == 2 * 2 * 2  # A and B, of two layers, in two blocks


def test_other_targets_than_those_named() -> None:
    gpt2: LoadedModel = tiny_model("gpt2")
    scaffold = make_scaffold(gpt2, LoraOptions(), seed=0)
    assert scaffold.note == "a gpt2 scaffold has no q_proj or v_proj: c_attn get the adapters"
    llama = make_scaffold(tiny_model(), LoraOptions(targets=("q_proj", "c_attn")), seed=0)
    assert llama.note == "a llama scaffold has no c_attn: q_proj get the adapters"
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert (
        len(lora_layers(make_scaffold(tiny_model(), LoraOptions(targets=every), seed=0).adapters))
        == 14
    )


def test_a_target_outside_the_blocks_is_refused() -> None:
    with pytest.raises(OptionError, match="no adapter fits on lm_head"):
        make_scaffold(tiny_model(), LoraOptions(targets=("lm_head",)), seed=0)
