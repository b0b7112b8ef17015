"""Llama blocks over padded batches, with gradients to what goes in and to adapters.

The same sums as in `llama`, over the weights as the model's file has them, whatever precision
answers: what is learned fits every precision, and a quantised model learns without a copy of its
weights in memory. Frozen matrices multiply in the base's 16-bit format; the hidden states, to which
every block adds, stay float32.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sovl_daemon.engine.fusion.scaffold import AdaptedLinear
from sovl_daemon.engine.model.attention import rotate
from sovl_daemon.engine.model.formats import as_format_of
from sovl_daemon.engine.model.llama import Block, FusedLinear, Llama
from sovl_daemon.engine.model.matrix import PlainMatrix
from sovl_daemon.engine.model.product import product

# oneDNN compiles its 16-bit kernels anew for each number of rows, which takes seconds for all the
# matrices of a model: numbers are rounded up to a multiple of _FEW, above _MANY of _MANY.
_FEW, _MANY = 16, 64


@dataclass(frozen=True, slots=True)
class LowRank:
    """Matrices (rank, in) and (out, rank) of one adapter, its scale and its share of dropout."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    dropout: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is added for `x` (N, in)."""
        inner = functional.dropout(x.float(), self.dropout) if self.dropout else x.float()
        return functional.linear(functional.linear(inner, self.down), self.up) * self.scale


# By the identity of peft's layer.
Adapters = Mapping[int, LowRank]


@dataclass(frozen=True, slots=True)
class PastKeyValues:
    """Keys and values (B or 1, kv_heads, S, size) of positions before those of a batch."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class BatchPositions:
    """Where the rows (B, R) of a batch stand; `mask` is (B, 1, R, S + R)."""

    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor


def batch_positions(lean: Llama, starts: Sequence[int], rows: int, seen: int) -> BatchPositions:
    """Return the positions of `rows` rows a sequence.

    Sequence i begins at position starts[i], all of which before it are among its `seen` ones, the
    first of them.
    """
    cos, sin = lean.rotary.rows([start + row for start in starts for row in range(rows)])
    device = cos.device
    before = torch.arange(seen, device=device) < torch.tensor(starts, device=device)[:, None]
    own = torch.ones(rows, rows, dtype=torch.bool, device=device).tril()
    count = len(starts)
    mask = torch.cat((before[:, None].expand(count, rows, seen), own.expand(count, rows, rows)), -1)
    return BatchPositions(cos, sin, mask[:, None])


def run_block(
    block: Block,
    x: torch.Tensor,
    at: BatchPositions,
    seen: Sequence[PastKeyValues] = (),
    adapters: Adapters | None = None,
) -> tuple[torch.Tensor, PastKeyValues]:
    """Map the hidden states (B, R, hidden) to those after a block; return its keys and values."""
    adapters = adapters or {}
    shape, dtype = x.shape, block.before_attention.weight.dtype
    rows = x.reshape(-1, shape[-1])
    attended, new = _attention(block, rows.to(dtype), at, seen, adapters, shape[0])
    rows = rows + multiply(block.out, attended, adapters)
    gate, up = multiply(block.gate_up, block.before_mlp(rows.to(dtype)), adapters).chunk(2, -1)
    rows = rows + multiply(block.down, functional.silu(gate) * up, adapters)
    return rows.view(shape), new


def _attention(
    block: Block,
    rows: torch.Tensor,
    at: BatchPositions,
    seen: Sequence[PastKeyValues],
    adapters: Adapters,
    count: int,
) -> tuple[torch.Tensor, PastKeyValues]:
    heads = block.heads
    qkv = multiply(block.qkv, block.before_attention(rows), adapters)
    qkv = rotate(qkv.view(len(rows), -1, heads.size), at.cos, at.sin)
    qkv = qkv.view(count, -1, *qkv.shape[1:]).transpose(1, 2)  # (B, heads, R, size)
    q, k, v = qkv.split([heads.queries, heads.keys, heads.keys], 1)
    new = PastKeyValues(k, v)
    keys, values = concatenated([*seen, new], count)
    out = _attend(q, keys, values, at.mask, heads.scale)
    return out.transpose(1, 2).reshape(len(rows), -1), new


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of (B, heads, R, size), written out.

    With so few rows a sequence, torch's fused kernel takes ten times as long to go backward on a
    CPU. Queries that share keys are rows of one head.
    """
    count, heads, rows, size = q.shape
    group = heads // keys.shape[1]
    grouped = q.reshape(count, -1, group * rows, size).float()
    scores = grouped @ keys.float().transpose(-1, -2) * scale
    scores = scores.masked_fill(~mask.repeat(1, 1, group, 1), -torch.inf)
    out = scores.softmax(-1) @ values.float()
    return out.view(q.shape).to(q.dtype)


def concatenated(parts: Sequence[PastKeyValues], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values of `count` sequences, one part behind the other."""
    if len(parts) == 1:
        return parts[0].keys, parts[0].values
    keys = [each.keys.expand(count, -1, -1, -1) for each in parts]
    values = [each.values.expand(count, -1, -1, -1) for each in parts]
    return torch.cat(keys, 2), torch.cat(values, 2)


def multiply(
    linear: FusedLinear | AdaptedLinear, x: torch.Tensor, adapters: Adapters
) -> torch.Tensor:
    """Return x @ weights.T for `x` (N, in), with what the adapters beside the matrix add."""
    if isinstance(linear, FusedLinear):
        return _frozen(linear, x)
    y = _frozen(linear.linear, x)
    for columns, layer in linear.adapters:
        if id(layer) in adapters:
            y[:, columns] += adapters[id(layer)](x).to(y.dtype)
    return y


def _frozen(linear: FusedLinear, x: torch.Tensor) -> torch.Tensor:
    count = len(x)
    if x.dtype != torch.float32:
        x = functional.pad(x, (0, 0, 0, -count % (_FEW if count <= _MANY else _MANY)))
    return _product(linear, x)[:count]


def _product(linear: FusedLinear, x: torch.Tensor) -> torch.Tensor:
    if isinstance(linear.matrix, PlainMatrix):
        y: torch.Tensor = _FrozenLinear.apply(x, linear.matrix.weight)
        return y
    parts: list[torch.Tensor] = [_FrozenLinear.apply(x, each.weight) for each in linear.modules]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class _FrozenLinear(torch.autograd.Function):  # type: ignore[misc] # torch is untyped here
    """A product with a weight whose copy is made twice rather than kept.

    Its own may be in another format, and on another device.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight
        return product(x, as_format_of(x, weight))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = grads
        return product(grad, as_format_of(grad, ctx.weight).T), None


# What is kept of a sequence: hidden states by layer, and keys and values.
FrozenActivations = tuple[dict[int, torch.Tensor], torch.Tensor]


def frozen_pass(
    lean: Llama, turns: Sequence[Sequence[int]], common: int, layers: Collection[int], past: int
) -> list[FrozenActivations]:
    """Read token ids without gradients, whose first `common` are the same; return what is kept.

    For each sequence: the hidden states (T - common, hidden) before each of `layers`, by its
    index, in the base's format, and the keys and values (L, 2 * kv_heads, T - common, size) in the
    layers from `past` on. The number of layers, as an index, stands for behind the last.
    """
    begin, rest = turns[0][:common], [ids[common:] for ids in turns]
    dtype, longest = lean.norm.weight.dtype, max(map(len, rest))
    padded = [id_ for ids in rest for id_ in (*ids, *[0] * (longest - len(ids)))]
    hidden: dict[int, torch.Tensor] = {}
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        x = lean.embed(padded).float().view(len(rest), longest, -1)
        shared = lean.embed(begin)[None].float() if common else x[:1, :0]
        at = batch_positions(lean, [common] * len(rest), longest, common)
        first = batch_positions(lean, [0], common, 0) if common else None
        last = len(lean.blocks) if past < len(lean.blocks) else max(layers, default=0)
        for block in lean.blocks[:last]:
            if block.index in layers:
                hidden[block.index] = x.to(dtype)
            before: tuple[PastKeyValues, ...] = ()
            if first is not None:
                shared, one = run_block(block, shared, first)
                before = (one,)
            x, new = run_block(block, x, at, before)
            if block.index >= past:
                seen.append(torch.cat((new.keys, new.values), 1))
        if last in layers:
            hidden[last] = x.to(dtype)
        whole = torch.stack(seen, 1) if seen else x.new_empty(len(rest), 0, 2, longest, 1)
        return [
            (
                {layer: each[index, : len(ids)].clone() for layer, each in hidden.items()},
                whole[index, :, :, : len(ids)].clone(),
            )
            for index, ids in enumerate(rest)
        ]
