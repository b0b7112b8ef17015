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

from sovl_daemon.engine.model.attention import (
    AttentionGroup,
    AttentionHeads,
    RotaryTable,
    attention_groups,
    rotate,
)
from sovl_daemon.engine.model.kv_cache import KeyValueCache, Span
from sovl_daemon.engine.model.matrix import Matrix, PlainMatrix, stack
from sovl_daemon.engine.model.precision import Holding, Precision


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


@dataclass(slots=True, eq=False)
class FusedLinear:
    """A matrix that may be exchanged for the same in another precision.

    `modules` are the network's layers whose weights it holds, one below the other; `names` those
    weights in the model's file. As long as the matrix is plain, the network's weights are views of
    it, so both are one in memory. Else the network's are those of the file, mapped, whichever
    `device` the matrix is on. `few_rows` as in `stack`.
    """

    names: tuple[str, ...]
    modules: tuple[Any, ...]
    matrix: Matrix
    dtype: torch.dtype
    device: torch.device
    tied: tuple[Any, ...] = ()
    few_rows: bool = False

    @classmethod
    def adopt(
        cls,
        names: Sequence[str],
        modules: Sequence[Any],
        precision: Precision,
        tied: Sequence[Any] = (),
        *,
        few_rows: bool = False,
    ) -> "FusedLinear":
        """Take over the weights of `modules`, and of those `tied` to the first of them."""
        weights = [module.weight.data for module in modules]
        plain, like = PlainMatrix(weights[0], precision), weights[0]
        linear = cls(
            tuple(names), tuple(modules), plain, like.dtype, like.device, tuple(tied), few_rows
        )
        linear.hold(weights, precision)
        return linear

    def hold(self, weights: Sequence[torch.Tensor], precision: Holding) -> None:
        """Hold `weights`, as many as there are modules, in `precision`."""
        matrix = stack(weights, self.dtype, precision, few_rows=self.few_rows, device=self.device)
        if isinstance(matrix, PlainMatrix):
            weights = matrix.weight.split([len(weight) for weight in weights])
        for module, weight in zip(self.modules, weights, strict=True):
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
        for module in self.tied:
            module.weight = self.modules[0].weight
        self.matrix = matrix


@dataclass(frozen=True, slots=True)
class SequenceRows:
    """The rows of the hidden states that belong to one conversation.

    The first of them is at position `start` of the conversation.
    """

    where: slice
    span: Span
    start: int

    @property
    def cache(self) -> Any:
        """What the conversation has read so far."""
        return self.span.cache


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """What all blocks share in one forward pass over N tokens; `rows` cover them in order.

    `parts` cover the same rows, conversations together where their attention is one call.
    """

    rows: tuple[SequenceRows, ...]
    parts: tuple[AttentionGroup, ...]
    cos: torch.Tensor
    sin: torch.Tensor


# Hidden states (N, hidden) behind a block and whose they are in, hidden states out.
AfterBlock = Callable[[torch.Tensor, Sequence[SequenceRows]], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Attention, then the gated feed-forward layer, each added to what comes in."""

    index: int
    heads: AttentionHeads
    before_attention: RmsNorm
    qkv: FusedLinear
    out: FusedLinear
    before_mlp: RmsNorm
    gate_up: FusedLinear
    down: FusedLinear

    def __call__(self, x: torch.Tensor, step: ForwardContext) -> torch.Tensor:
        """Map the hidden states (N, hidden) to those after this block."""
        x = x + self.out.matrix(self._attention(self.before_attention(x), step))
        gate, up = self.gate_up.matrix(self.before_mlp(x)).chunk(2, -1)
        return x + self.down.matrix(functional.silu(gate).mul_(up))

    def linears(self) -> tuple[FusedLinear, ...]:
        """Return the matrices, in the order they are used."""
        return (self.qkv, self.out, self.gate_up, self.down)

    def _attention(self, x: torch.Tensor, step: ForwardContext) -> torch.Tensor:
        qkv = self.qkv.matrix(x).view(len(x), -1, self.heads.size)
        qkv = rotate(qkv, step.cos, step.sin)
        heads, index = self.heads, self.index
        parts = [heads.attend(qkv[part.where], index, part) for part in step.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


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
        head: FusedLinear,
        rotary: RotaryTable,
        limit: int | None,
    ) -> None:
        self.blocks = tuple(blocks)
        self.head = head
        self.after_block: dict[int, AfterBlock] = {}
        self._embedding = embedding
        self.norm = norm
        self.rotary = rotary
        self._limit = limit

    @property
    def device(self) -> torch.device:
        """Where it computes; what the embedding gives may come from elsewhere."""
        return self.norm.weight.device

    def with_blocks(self, blocks: Sequence[Block]) -> "Llama":
        """Return one that has other blocks, and shares all the rest."""
        return Llama(self._embedding, blocks, self.norm, self.head, self.rotary, self._limit)

    def linears(self) -> Iterator[tuple[FusedLinear, ...]]:
        """Return the matrices of each layer; the last is the head."""
        yield from (block.linears() for block in self.blocks)
        yield (self.head,)

    def new_cache(self) -> KeyValueCache:
        """Return an empty cache for one sequence."""
        heads, like = self.blocks[0].heads, self.norm.weight
        pack = like.new_empty(len(self.blocks), 1, 2 * heads.keys, 0, heads.size)
        return KeyValueCache(pack, self._limit)

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        """Read each span after what its cache holds; return the next tokens' logits, (B, vocab)."""
        x, step = self.read(spans)
        last = {id(rows.span): rows.where.stop - 1 for rows in step.rows}
        wanted = [last[id(span)] for span in spans]
        if wanted != list(range(len(x))):
            x = x[wanted]
        return self.head.matrix(self.norm(x))

    def read(self, spans: Sequence[Span]) -> tuple[torch.Tensor, ForwardContext]:
        """Read each span after what its cache holds; return the last block's output (N, hidden).

        Its rows lie as `ForwardContext.rows` says, which need not be the order of the spans.
        """
        step = self.step(spans)
        x = self.embed([id_ for rows in step.rows for id_ in rows.span.ids])
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
        rows = weight[torch.tensor(ids, device=weight.device)]
        return rows.to(self.device, self.head.dtype)

    def step(self, spans: Sequence[Span]) -> ForwardContext:
        """Return what the blocks need to read `spans`."""
        rows: list[SequenceRows] = []
        parts: list[AttentionGroup] = []
        positions: list[int] = []
        for group in attention_groups(spans):
            parts.append(self.blocks[0].heads.describe(group, len(positions)))
            for span in group:
                start, seen, count = len(positions), span.cache.length, len(span.ids)
                rows.append(SequenceRows(slice(start, start + count), span, seen))
                positions.extend(range(seen, seen + count))
        return ForwardContext(tuple(rows), tuple(parts), *self.rotary.rows(positions))
