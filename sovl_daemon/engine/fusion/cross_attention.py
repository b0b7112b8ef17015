"""Attention from one layer of the base into the scaffold's hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class MemoryKeyValues:
    """Keys and values of a memory, as one layer of the base sees it.

    `keys` and `values` are (heads, S, size); `bias` (1, S), or None, is added to the scores.
    """

    keys: torch.Tensor
    values: torch.Tensor
    bias: torch.Tensor | None

    def until(self, count: int) -> "MemoryKeyValues":
        """Return a copy of the first `count`."""
        bias = None if self.bias is None else self.bias[:, :count].clone()
        return MemoryKeyValues(self.keys[:, :count].clone(), self.values[:, :count].clone(), bias)


class CrossAttention(nn.Module):  # type: ignore[misc] # torch is untyped here
    """Multi-head attention of low rank, from `width` to a memory of `memory_width` and back.

    The output projection starts at zero with no gate before it, so a fresh one changes nothing and
    learns from the first step (a gate of tanh(0) before a random projection hardly moves). Queries
    are normalised, because the base's hidden states grow from layer to layer.
    """

    def __init__(self, width: int, memory_width: int, *, rank: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, rank, bias=False)
        self.key = nn.Linear(memory_width, rank, bias=False)
        self.value = nn.Linear(memory_width, rank, bias=False)
        self.output = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.output.weight)

    @property
    def fresh(self) -> bool:
        """Whether it has not learned anything: what it adds is zero."""
        return not bool(self.output.weight.any())

    def project(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of the scaffold's hidden states (S, memory_width)."""
        hidden = hidden.to(self.key.weight.dtype)
        return self._split(self.key(hidden)), self._split(self.value(hidden))

    def forward(
        self, x: torch.Tensor, wheres: Sequence[slice], memories: Sequence[MemoryKeyValues]
    ) -> torch.Tensor:
        """Return what is added to the rows `wheres` of `x` (N, width), one below the other.

        Each range of rows looks into the memory at the same place of `memories`.
        """
        rows = x[wheres[0]] if len(wheres) == 1 else torch.cat([x[where] for where in wheres])
        queries = self._split(self.query(functional.layer_norm(rows, rows.shape[-1:])))
        if len(memories) == 1:
            seen = _attend(queries, memories[0])
        else:
            sizes = [where.stop - where.start for where in wheres]
            parts = zip(queries.split(sizes, 1), memories, strict=True)
            seen = torch.cat([_attend(query, memory) for query, memory in parts], 1)
        added: torch.Tensor = self.output(seen.transpose(0, 1).reshape(len(rows), -1))
        return added

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(T, rank) as heads, (heads, T, size)."""
        return x.view(len(x), self.heads, -1).transpose(0, 1)


def _attend(query: torch.Tensor, memory: MemoryKeyValues) -> torch.Tensor:
    return functional.scaled_dot_product_attention(
        query[None], memory.keys[None], memory.values[None], attn_mask=memory.bias
    )[0]
