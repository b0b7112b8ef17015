"""Attention of the new tokens of several conversations, each to its own cache.

Queries and keys are turned by their positions first: rotary position embedding (Su et al. 2021),
as tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional

from sovl_daemon.engine.model.kv_cache import KeyValueCache, Span, shared_pack


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """B conversations with T new tokens each, whose attention is one call.

    `where` are their B * T rows of the hidden states; `pack` (layers, B, 2 * keys, capacity, size)
    are their caches, in which the new keys and values go to `rows` (B, 1) and `positions` (B, T);
    `mask` is added to the scores, None where every token may look at all `seen` positions.
    """

    where: slice
    pack: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    seen: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionHeads:
    """How the attention of a model is divided."""

    queries: int
    keys: int
    size: int
    scale: float

    def attend(self, qkv: torch.Tensor, layer: int, group: AttentionGroup) -> torch.Tensor:
        """Add the keys and values of a group to its caches; return its attention's output.

        `qkv` is (B * T, queries + 2 * keys, size), the output (B * T, queries * size). Queries
        that share keys are laid out as rows of one head, so keys need no repetition.
        """
        batch, count = group.positions.shape
        sharing = self.queries // self.keys
        new = qkv.view(batch, count, -1, self.size)
        held = group.pack[layer]
        held[group.rows, :, group.positions] = new[:, :, self.queries :]
        keys, values = held[:, :, : group.seen].chunk(2, 1)
        rows = new[:, :, : self.queries].view(batch, count, self.keys, sharing, self.size)
        rows = rows.permute(0, 2, 3, 1, 4).reshape(batch, self.keys, sharing * count, self.size)
        out = functional.scaled_dot_product_attention(
            rows, keys, values, attn_mask=group.mask, scale=self.scale
        )
        out = out.view(batch, self.keys, sharing, count, self.size).permute(0, 3, 1, 2, 4)
        return out.reshape(batch * count, self.queries * self.size)

    def describe(self, group: Sequence[Span], start: int) -> AttentionGroup:
        """Describe one of `attention_groups`, whose rows of the hidden states begin at `start`."""
        caches = [span.cache for span in group]
        pack, count = shared_pack(caches), len(group[0].ids)
        lengths = [cache.length for cache in caches]
        first = torch.tensor(lengths, device=pack.device)[:, None]
        positions = first + torch.arange(count, device=pack.device)  # (B, T)
        seen = max(lengths) + count
        mask = None
        if count > 1 or min(lengths) < max(lengths):
            hidden = torch.arange(seen, device=pack.device) > positions[..., None]  # (B, T, S)
            mask = torch.zeros(hidden.shape, dtype=pack.dtype, device=pack.device)
            mask.masked_fill_(hidden, -torch.inf)
            mask = mask.repeat(1, self.queries // self.keys, 1)[:, None]  # (B, 1, group * T, S)
        return AttentionGroup(
            slice(start, start + len(group) * count),
            pack,
            torch.arange(len(group), device=pack.device)[:, None],
            positions,
            seen,
            mask,
        )


def attention_groups(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Make room in the caches; yield the spans again, those together whose attention is one call.

    These have one token each and caches of one capacity, so no more than half of what attention
    reads is padding.
    """
    for span in spans:
        span.cache.reserve(len(span.ids))
    single = sorted((span for span in spans if len(span.ids) == 1), key=_capacity)
    yield from (list(group) for _, group in groupby(single, _capacity))
    yield from ([span] for span in spans if len(span.ids) > 1)


def _capacity(span: Span) -> int:
    cache: KeyValueCache = span.cache
    return cache.capacity


class RotaryTable:
    """Cosines and sines by position, made by the network's own module and kept.

    `module` is transformers' rotary embedding; `rotated` heads are turned, the `still` ones
    behind them (the values) are not: their cosine is 1 and their sine 0, so that one
    multiplication serves queries, keys and values.
    """

    def __init__(self, module: Any, rotated: int, still: int, like: torch.Tensor) -> None:
        self._module = module
        self._rotated = rotated
        self._still = still
        self._like = like
        self._cos, self._sin = self._tables(1)

    def rows(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines (N, heads, head_dim) of N positions."""
        end = max(positions) + 1
        if end > len(self._cos):
            self._cos, self._sin = self._tables(1 << (end - 1).bit_length())
        where = torch.tensor(positions, device=self._cos.device)
        return self._spread(self._cos[where], 1), self._spread(self._sin[where], 0)

    def _spread(self, table: torch.Tensor, still: float) -> torch.Tensor:
        turned = table[:, None].expand(-1, self._rotated, -1)
        rest = table.new_full((len(table), self._still, table.shape[-1]), still)
        return torch.cat((turned, rest), 1)

    def _tables(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(count, device=self._like.device)[None]
        cos, sin = (table[0] for table in self._module(self._like, positions))
        # The rotation is x * cos + (-x2, x1) * sin; with the sign in the table, (x2, x1) will do.
        sin[:, : sin.shape[-1] // 2].neg_()
        return cos, sin


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each head of `x` (T, heads, head_dim) by the angles of `RotaryTable.rows`."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
