"""The scaffold's memory of a batch of prompts, with gradients to its adapters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.func import functional_call
from torch.nn import functional

from sovl_daemon.engine.fusion.cross_attention import CrossAttention
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.fusion.lora import ADAPTER, lora_layers
from sovl_daemon.engine.fusion.scaffold import AdaptedLinear, LeanScaffold
from sovl_daemon.engine.learning.activation_cache import ActivationCache
from sovl_daemon.engine.learning.candidate import Candidate
from sovl_daemon.engine.learning.lean_batch import (
    Adapters,
    LowRank,
    PastKeyValues,
    batch_positions,
    frozen_pass,
    run_block,
)
from sovl_daemon.engine.learning.sample import Ids
from sovl_daemon.engine.model.llama import Llama
from sovl_daemon.engine.thread.threads import Threads

_NEVER = 1 << 30


@dataclass(frozen=True, slots=True)
class BatchMemory:
    """What a scaffold remembers of a batch of prompts.

    `common` (C, width) is of what all begin with, `hidden` (B, S, width) of the rest; `bias`
    (B, 1, 1, C + S) is added to the scores, minus infinity where a shorter prompt is padded.
    """

    common: torch.Tensor
    hidden: torch.Tensor
    bias: torch.Tensor

    def added(self, attention: CrossAttention, x: torch.Tensor) -> torch.Tensor:
        """Return what `attention` adds to the rows `x` (B, R, hidden) that look into it."""

        def projected(layer: Any) -> torch.Tensor:
            own: torch.Tensor = layer(self.hidden.float())
            if not len(self.common):
                return own
            shared = layer(self.common.float())
            return torch.cat((shared.expand(len(own), -1, -1), own), 1)

        count, heads = len(x), attention.heads
        query = attention.query(functional.layer_norm(x.float(), x.shape[-1:]))
        keys, values = projected(attention.key), projected(attention.value)
        seen = functional.scaled_dot_product_attention(
            _split(query, heads), _split(keys, heads), _split(values, heads), attn_mask=self.bias
        )
        added: torch.Tensor = attention.output(seen.transpose(1, 2).reshape(count, x.shape[1], -1))
        return added


class MemoryPass(Protocol):
    """How a scaffold reads prompts while it learns."""

    def read(self, prompts: Sequence[Ids], common: int, *, dropout: bool) -> BatchMemory:
        """Read prompts, whose first `common` tokens are the same."""


def memory_pass(
    fusion: Fusion, candidate: Candidate, cache: ActivationCache, threads: Threads
) -> MemoryPass:
    """Return how the fusion's scaffold reads with the candidate's adapters."""
    if isinstance(fusion.scaffold, LeanScaffold) and fusion.tokens is None:
        return LeanMemoryPass(fusion.scaffold, candidate, cache, threads)
    return NetworkMemoryPass(fusion, candidate)


class LeanMemoryPass:
    """Through lean blocks; those below the first adapter run once for each prompt."""

    def __init__(
        self, scaffold: LeanScaffold, candidate: Candidate, cache: ActivationCache, threads: Threads
    ) -> None:
        self._lean: Llama = scaffold.lean
        self._scaffold = scaffold
        self._candidate = candidate
        self._cache = cache
        self._threads = threads
        adapted = [block.index for block in self._lean.blocks if _adapted(block)]
        self._first = (
            min(adapted, default=len(self._lean.blocks))
            if candidate.adapters
            else len(self._lean.blocks)
        )

    def read(self, prompts: Sequence[Ids], common: int, *, dropout: bool) -> BatchMemory:
        """Read prompts, whose first `common` tokens are the same; the ends of those too long."""
        limit = self._scaffold.max_context
        if limit is not None and max(map(len, prompts)) > limit:
            prompts, common = [prompt[-limit:] for prompt in prompts], 0
        shared, x = self._below(prompts, common)
        adapters = low_rank(self._scaffold, self._candidate, dropout=dropout)
        at = batch_positions(self._lean, [common] * len(prompts), x.shape[1], common)
        first = batch_positions(self._lean, [0], common, 0) if common else None
        rows = common + x.shape[0] * x.shape[1]
        for block in self._lean.blocks[self._first :]:
            seen: tuple[PastKeyValues, ...] = ()
            with self._threads.working("training", rows):
                if first is not None:
                    shared, kept = run_block(block, shared, first, (), adapters)
                    seen = (kept,)
                x, _ = run_block(block, x, at, seen, adapters)
        return BatchMemory(self._norm(shared[0]), self._norm(x), _bias(prompts, x))

    def _below(self, prompts: Sequence[Ids], common: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the first adapted block reads: of what all begin with, and of the rest, padded."""
        first = self._first

        def read(places: list[int]) -> Iterator[torch.Tensor]:
            chosen = [prompts[place] for place in places]
            return (
                kept[first] for kept, _ in frozen_pass(self._lean, chosen, common, (first,), _NEVER)
            )

        def read_common(_: list[int]) -> Iterator[torch.Tensor]:
            start = [prompts[0][:common]]
            return (kept[first] for kept, _ in frozen_pass(self._lean, start, 0, (first,), _NEVER))

        rest = self._cache.get([("read", common, prompt) for prompt in prompts], read)
        x = torch.nn.utils.rnn.pad_sequence([each.float() for each in rest], True)
        if not common:
            return x[:1, :0], x
        (shared,) = self._cache.get([("read", prompts[0][:common])], read_common)
        return shared[None].float(), x

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(self._lean.norm.weight.dtype)
        return self._lean.norm(rows).view(x.shape)


class NetworkMemoryPass:
    """Through transformers' network, whole; `tokens` of the fusion translates."""

    def __init__(self, fusion: Fusion, candidate: Candidate) -> None:
        self._fusion = fusion
        self._candidate = candidate
        self._network = fusion.scaffold.adapters.get_base_model().base_model

    def read(self, prompts: Sequence[Ids], common: int, *, dropout: bool) -> BatchMemory:
        """Read prompts; that their first `common` tokens are the same makes no difference."""
        del common
        told = [self._fusion.fit(self._fusion.translate(prompt))[:2] for prompt in prompts]
        device = next(iter(self._fusion.attentions.parameters())).device
        ids = [torch.tensor(list(each), device=device) for each, _ in told]
        # Padding stands behind, where causal attention does not look.
        padded = torch.nn.utils.rnn.pad_sequence(ids, True)
        hidden = self._run(padded, dropout).last_hidden_state
        bias = _bias(ids, hidden)
        for row, (_, weights) in zip(bias, told, strict=True):
            row[0, 0, : len(weights)] = torch.tensor(weights, device=device).log()
        return BatchMemory(hidden[0, :0], hidden, bias)

    def _run(self, ids: torch.Tensor, dropout: bool) -> Any:
        drops = [each.lora_dropout for each in lora_layers(self._fusion.scaffold.adapters).values()]
        for each in drops:
            each.train(dropout)
        try:
            arguments = {"input_ids": ids, "use_cache": False}
            return functional_call(self._network, self._candidate.adapters, (), arguments)
        finally:
            for each in drops:
                each.eval()


def low_rank(scaffold: LeanScaffold, candidate: Candidate, *, dropout: bool) -> Adapters:
    """Return the candidate's adapters by the layers of peft that they stand for."""
    found = {}
    network = scaffold.adapters.get_base_model()
    below = network.base_model_prefix + "."
    for name, layer in lora_layers(scaffold.adapters).items():
        stem = name.removeprefix(below)
        if f"{stem}.lora_A.{ADAPTER}.weight" not in candidate.adapters:
            continue
        drop = layer.lora_dropout[ADAPTER]
        found[id(layer)] = LowRank(
            candidate.adapters[f"{stem}.lora_A.{ADAPTER}.weight"],
            candidate.adapters[f"{stem}.lora_B.{ADAPTER}.weight"],
            float(layer.scaling[ADAPTER]),
            float(getattr(drop, "p", 0.0)) if dropout else 0.0,
        )
    return found


def _adapted(block: Any) -> bool:
    return any(isinstance(linear, AdaptedLinear) for linear in block.linears())


def _bias(prompts: Sequence[Any], like: torch.Tensor) -> torch.Tensor:
    """Scores (B, 1, 1, S) that hide the padding; S is the longest prompt."""
    lengths = torch.tensor([len(each) for each in prompts], device=like.device)
    hidden = torch.arange(int(lengths.max()), device=like.device) >= lengths[:, None]
    return torch.zeros(hidden.shape, device=like.device).masked_fill(hidden, -torch.inf)[
        :, None, None
    ]


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, T, rank) as heads, (B, heads, T, size)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
