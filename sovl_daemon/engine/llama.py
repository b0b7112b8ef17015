"""The forward pass of Llama-family models, stripped to what conversations need.

The same sums as transformers' network in the same order, up to rounding: matrices that share
their input are one, nothing is converted, attention reads preallocated caches, and only the last
position of each conversation gets logits. The new tokens of several conversations are rows of the
same matrices, one below the other, so that each weight is read once for all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sovl_daemon.engine.kv_cache import KeyValueCache
from sovl_daemon.engine.rotary import RotaryTable, rotate
from sovl_daemon.engine.slot import Slot
from sovl_daemon.engine.span import Span


class RmsNorm:
    """Root mean square norm (Zhang and Sennrich 2019) of rows (T, hidden)."""

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        self.weight = weight
        self._twice = torch.cat((weight, weight))
        self._epsilon = epsilon

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Divide each row by its root mean square and multiply by the weights."""
        # The mean of x and -x is 0, so their variance is the mean square of x: layer_norm is one
        # kernel, where torch composes rms_norm of seven (7 against 13 us for 576 numbers).
        both = torch.cat((x, -x), -1)
        y = functional.layer_norm(both, self._twice.shape, self._twice, None, self._epsilon)
        return y[:, : len(self.weight)].contiguous()


@dataclass(frozen=True, slots=True)
class Heads:
    """How the attention of a model is divided."""

    queries: int
    keys: int
    size: int
    scale: float

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the attention's output (T, queries * size).

        `q` is (T, queries, size), `k` and `v` are (keys, S, size), `mask` (group * T, S) or None.
        Queries that share keys are laid out as rows of one head, so keys need no repetition.
        """
        count, group = len(q), self.queries // self.keys
        rows = q.reshape(count, self.keys, group, self.size).permute(1, 2, 0, 3)
        rows = rows.reshape(1, self.keys, group * count, self.size)
        out = functional.scaled_dot_product_attention(
            rows, k[None], v[None], attn_mask=mask, scale=self.scale
        )
        out = out.view(self.keys, group, count, self.size).permute(2, 0, 1, 3)
        return out.reshape(count, self.queries * self.size)

    def mask(self, count: int, seen: int, device: torch.device) -> torch.Tensor | None:
        """Return which of seen + count positions each of the `count` new ones may look at."""
        if count == 1:
            return None
        allowed = torch.ones(count, seen + count, dtype=torch.bool, device=device).tril(seen)
        return allowed.repeat(self.queries // self.keys, 1)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of the hidden states that belong to one conversation.

    The first of them is at position `start` of what `cache` holds.
    """

    where: slice
    cache: Any
    start: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Step:
    """What all blocks share in one forward pass over N tokens; `rows` cover them in order."""

    rows: tuple[Rows, ...]
    cos: torch.Tensor
    sin: torch.Tensor


# Hidden states (N, hidden) behind a block and whose they are in, hidden states out.
AfterBlock = Callable[[torch.Tensor, Sequence[Rows]], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Attention, then the gated feed-forward layer, each added to what comes in."""

    index: int
    heads: Heads
    before_attention: RmsNorm
    qkv: Slot
    out: Slot
    before_mlp: RmsNorm
    gate_up: Slot
    down: Slot

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Map the hidden states (N, hidden) to those after this block."""
        x = x + self.out.matrix(self._attention(self.before_attention(x), step))
        gate, up = self.gate_up.matrix(self.before_mlp(x)).chunk(2, -1)
        return x + self.down.matrix(functional.silu(gate).mul_(up))

    def slots(self) -> tuple[Slot, ...]:
        """Return the matrices, in the order they are used."""
        return (self.qkv, self.out, self.gate_up, self.down)

    def _attention(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        qkv = self.qkv.matrix(x).view(len(x), -1, self.heads.size)
        qkv = rotate(qkv, step.cos, step.sin)
        parts = [self._attend(qkv[rows.where], rows) for rows in step.rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend(self, qkv: torch.Tensor, rows: Rows) -> torch.Tensor:
        keys, values = rows.cache.append(self.index, qkv[:, self.heads.queries :])
        return self.heads.attend(qkv[:, : self.heads.queries], keys, values, rows.mask)


class Llama:
    """The blocks between embedding and logits.

    `after_block` may change the hidden states behind a block, by its index: the place where
    another model adds its residual. `limit` bounds the positions of a cache.
    """

    def __init__(
        self,
        embedding: torch.nn.Embedding,
        blocks: Sequence[Block],
        norm: RmsNorm,
        head: Slot,
        rotary: RotaryTable,
        limit: int | None,
    ) -> None:
        self.blocks = tuple(blocks)
        self.head = head
        self.after_block: dict[int, AfterBlock] = {}
        self._embedding = embedding
        self.norm = norm
        self._rotary = rotary
        self._limit = limit

    def with_blocks(self, blocks: Sequence[Block]) -> "Llama":
        """Return one that has other blocks, and shares all the rest."""
        return Llama(self._embedding, blocks, self.norm, self.head, self._rotary, self._limit)

    def slots(self) -> Iterator[tuple[Slot, ...]]:
        """Return the matrices of each layer; the last is the head."""
        yield from (block.slots() for block in self.blocks)
        yield (self.head,)

    def new_cache(self) -> KeyValueCache:
        """Return an empty cache for one sequence."""
        heads = self.blocks[0].heads
        like = self.norm.weight
        return KeyValueCache(len(self.blocks), heads.keys, heads.size, like, self._limit)

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        """Read each span after what its cache holds; return the next tokens' logits, (B, vocab)."""
        x, step = self.read(spans)
        if len(x) > len(spans):
            x = x[[rows.where.stop - 1 for rows in step.rows]]
        return self.head.matrix(self.norm(x))

    def read(self, spans: Sequence[Span]) -> tuple[torch.Tensor, Step]:
        """Read each span after what its cache holds; return the last block's output (N, hidden)."""
        x = self.embed([id_ for span in spans for id_ in span.ids])
        step = self.step(spans)
        for block in self.blocks:
            x = block(x, step)
            if block.index in self.after_block:
                x = self.after_block[block.index](x, step.rows)
        for span in spans:
            span.cache.advance(len(span.ids))
        return x, step

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the hidden states (N, hidden) that the first block reads."""
        weight = self._embedding.weight
        # The rows first: where the model is quantised, the table is only mapped from its file.
        return weight[torch.tensor(ids, device=weight.device)].to(self.head.dtype)

    def step(self, spans: Sequence[Span]) -> Step:
        """Return what the blocks need to read `spans`."""
        device = self.norm.weight.device
        rows: list[Rows] = []
        positions: list[int] = []
        start = 0
        for span in spans:
            count, seen = len(span.ids), span.cache.length
            mask = self.blocks[0].heads.mask(count, seen, device)
            rows.append(Rows(slice(start, start + count), span.cache, seen, mask))
            positions.extend(range(seen, seen + count))
            start += count
        return Step(tuple(rows), *self._rotary.rows(positions))
