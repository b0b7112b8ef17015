"""Tensors that are the same whenever they are computed, kept as far as a budget goes."""

from collections.abc import Callable, Hashable
from typing import Any

import torch


class Store:
    """Keeps the first values it is asked for, up to `limit` bytes; makes the others anew."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._kept: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the tensor, or tuple of tensors, of `key`, made by `make` if it is not there."""
        if key in self._kept:
            return self._kept[key]
        made = make()
        size = sum(map(_nbytes, made if isinstance(made, tuple) else (made,)))
        if self.nbytes + size <= self.limit:
            self._kept[key] = made
            self.nbytes += size
        return made

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.nbytes = 0


def _nbytes(tensor: torch.Tensor) -> int:
    size: int = tensor.numel() * tensor.element_size()
    return size
