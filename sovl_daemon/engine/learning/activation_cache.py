"""Tensors that are the same whenever they are computed, kept as far as a budget goes."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch


class ActivationCache:
    """Keeps the first values it is asked for, up to `limit` bytes; makes the others anew."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._kept: dict[Hashable, Any] = {}

    def get(
        self, keys: Sequence[Hashable], make: Callable[[list[int]], Iterable[Any]]
    ) -> list[Any]:
        """Return the tensor, or tuple of tensors, of each key.

        `make` is given the places of those that are not there, and makes them in order.
        """
        missing = [place for place, key in enumerate(keys) if key not in self._kept]
        made = dict(zip(missing, make(missing), strict=True)) if missing else {}
        for place, value in made.items():
            self._keep(keys[place], value)
        return [made[p] if p in made else self._kept[key] for p, key in enumerate(keys)]

    def _keep(self, key: Hashable, value: Any) -> None:
        size = sum(map(_nbytes, value if isinstance(value, tuple) else (value,)))
        if key not in self._kept and self.nbytes + size <= self.limit:
            self._kept[key] = value
            self.nbytes += size

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.nbytes = 0


def _nbytes(tensor: torch.Tensor) -> int:
    size: int = tensor.numel() * tensor.element_size()
    return size
