"""How fast our engine writes: a conversation, several at once, and after a cached prefix."""

import time
from itertools import pairwise

import torch

from benchmarks.common import median
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import make_scaffold
from sovl_daemon.engine.fusion.steering import Influence, spread_layers
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.model.precision import Precision
from sovl_daemon.engine.serving.batch import advance
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.token_sequence import TokenSequence

CONTEXT = 2048
ENOUGH = 2**28  # bytes of a prefix cache


def steered(model: LoadedModel) -> LoadedModel:
    """With the model itself as scaffold, and the default layers as after training."""
    options = LoraOptions()
    fusion = Fusion(model, make_scaffold(model, options, seed=0), rank=128, heads=4, seed=0)
    for layer in spread_layers(model.layers):
        torch.nn.init.normal_(fusion.attention(layer).output.weight, std=0.01)
    fusion.refresh()
    return model


def hold(model: LoadedModel, precision: Precision, *, fused: bool) -> None:
    """Bring the model into the state that is to be measured."""
    if isinstance(model.fusion, Fusion):
        model.fusion.set(spread_layers(model.layers) if fused else (), Influence())
    switch = model.switch(precision)
    while switch is not None and switch.step():
        pass


def decoding(caches: PrefixCache, prompt: list[int], tokens: int) -> TokenSequence:
    options = SamplingOptions(temperature=0, max_new_tokens=tokens)
    return TokenSequence(caches, prompt, options, stop_ids=frozenset(), context_length=CONTEXT)


def tokens_per_s(model: LoadedModel, prompt: list[int], tokens: int, batch: int) -> float:
    """Of `batch` conversations together, from when all of them write."""
    caches = PrefixCache(model)
    running = [decoding(caches, prompt, tokens + batch) for _ in range(batch)]
    while any(each.is_prefilling for each in running):
        advance(model, caches, running)
    began = time.perf_counter()
    for _ in range(tokens):
        assert len(advance(model, caches, running)) == batch
    return batch * tokens / (time.perf_counter() - began)


def first_token_steps(model: LoadedModel, prompt: list[int], turn: list[int]) -> float:
    """Time to the first token of a prompt that was read before, in decode steps after it.

    All of `prompt` was; without a `turn` its last token is read again, for its logits.
    """
    caches = PrefixCache(model, ENOUGH)
    before = decoding(caches, prompt, 1)
    while before.finish_reason is None:
        advance(model, caches, [before])
    before.close(keep=True)
    began = time.perf_counter()
    after = decoding(caches, [*prompt, *turn], 17)
    times = []
    while after.finish_reason is None:
        if advance(model, caches, [after]):
            times.append(time.perf_counter())
    assert after.cached_tokens >= len(prompt) - 1
    steps = [later - earlier for earlier, later in pairwise(times)]
    return (times[0] - began) / median(steps)
