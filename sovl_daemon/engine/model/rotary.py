"""Rotary position embedding (Su et al. 2021), as tables."""

from collections.abc import Sequence
from typing import Any

import torch


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
