"""Keys and values that a conversation's tokens have left behind."""

from typing import Any, Protocol

import torch
from transformers import DynamicCache

_SMALLEST = 64


class Cache(Protocol):
    """What a model has read of one conversation.

    `length` is the number of positions; `memory` is what the scaffold remembers of them, None
    where nothing steers the base.
    """

    memory: Any

    @property
    def length(self) -> int:
        """Number of positions read."""

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""


class NetworkCache:
    """The cache of a network of transformers, for one sequence."""

    def __init__(self, config: Any) -> None:
        self.memory: Any = None
        self.dynamic = DynamicCache(config=config)

    @property
    def length(self) -> int:
        """Number of positions read."""
        return int(self.dynamic.get_seq_length())

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        if length < self.length:
            self.dynamic.crop(length - self.length)
        if self.memory is not None:
            self.memory.truncate(length)


class KeyValueCache:
    """What attention has seen so far, a tensor a layer, (2 * kv_heads, capacity, head_dim).

    The capacity grows in powers of two, a layer at a time, up to `limit` positions (None: without
    end). Keys lie in the first half of the heads, values in the second.
    """

    def __init__(
        self, layers: int, heads: int, head_dim: int, like: torch.Tensor, limit: int | None
    ) -> None:
        self.length = 0
        self.memory: Any = None
        self._heads = heads
        self._limit = limit
        self._layers = [like.new_empty(2 * heads, 0, head_dim) for _ in range(layers)]

    def append(self, layer: int, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values (T, 2 * kv_heads, head_dim) of one layer; return all of it.

        Keys and values are (kv_heads, length + T, head_dim) each. `length` changes with `advance`
        only, so a forward pass that fails on the way leaves no trace.
        """
        end = self.length + len(new)
        if end > self._layers[layer].shape[1]:
            self._layers[layer] = self._grown(self._layers[layer], end)
        store = self._layers[layer]
        store[:, self.length : end].copy_(new.transpose(0, 1))
        seen = store.narrow(1, 0, end)
        return seen[: self._heads], seen[self._heads :]

    def advance(self, count: int) -> None:
        """Count `count` positions, which every layer has been given, as seen."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.length = min(self.length, length)
        if self.memory is not None:
            self.memory.truncate(length)

    def _grown(self, store: torch.Tensor, needed: int) -> torch.Tensor:
        capacity = max(_SMALLEST, 1 << (needed - 1).bit_length())
        if self._limit is not None:
            capacity = max(min(capacity, self._limit), needed)
        larger = store.new_empty(store.shape[0], capacity, store.shape[2])
        larger[:, : self.length] = store[:, : self.length]
        return larger
