"""What the scaffold remembers of one conversation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sovl_daemon.engine.fusion.cross_attention import CrossAttention, MemoryKeyValues


@dataclass(slots=True, eq=False)
class ScaffoldMemory:
    """The scaffold's hidden states (D + S, width) over dreams and over what the base was told.

    The first D, `dreamt`, are of dreams and stay. `cache` is the scaffold's own; `ends` tells, for
    each position of the base, how many of the S states are of it or before it; `weights` of all
    D + S multiply attention: those of the dreams, and those of the token map. The base's positions
    from `since` on look into the memory: the end of the prompt and the answer. Those before it are
    read as the plain base reads them. A memory that is `cut` is of the end of what it covers.
    """

    cache: Any
    hidden: torch.Tensor
    ends: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    since: int = 0
    dreamt: int = 0
    cut: bool = False
    _seen: dict[CrossAttention, MemoryKeyValues] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of the base's positions it covers."""
        return len(self.ends)

    @property
    def tokens_read(self) -> int:
        """Number of the scaffold's tokens that it has read of them."""
        return self.ends[-1] if self.ends else 0

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        views = [tensor for seen in self._seen.values() for tensor in (seen.keys, seen.values)]
        sizes = [tensor.numel() * tensor.element_size() for tensor in (self.hidden, *views)]
        total: int = sum(sizes) + self.cache.nbytes
        return total

    def append(self, hidden: torch.Tensor, weights: Sequence[float], counts: Sequence[int]) -> None:
        """Add states (T, width) with their weights; `counts` of them belong to each position."""
        self.hidden = torch.cat((self.hidden, hidden))
        self.weights += weights
        for count in counts:
            self.ends.append((self.ends[-1] if self.ends else 0) + count)

    def truncate(self, length: int) -> None:
        """Forget the base's positions from `length` on."""
        if length >= self.length:
            return
        del self.ends[length:]
        kept = self.ends[-1] if self.ends else 0
        states = self.dreamt + kept
        self.hidden = self.hidden[:states].clone()
        del self.weights[states:]
        self.cache.truncate(kept)
        self._seen = self._seen_until(states)

    def fork(self, length: int) -> "ScaffoldMemory":
        """Return a memory of the first `length` positions; neither hears of the other's new ones.

        Raises:
            CacheError: the scaffold cannot forget what follows them.

        """
        ends = self.ends[:length]
        kept = ends[-1] if ends else 0
        states = self.dreamt + kept
        return ScaffoldMemory(
            self.cache.fork(kept),
            self.hidden[:states],
            ends,
            self.weights[:states],
            self.since,
            self.dreamt,
            self.cut,
            self._seen_until(states),
        )

    def compact(self) -> None:
        """Give back the room for tokens that may never come."""
        self.cache.compact()

    def seen_by(self, layer: CrossAttention) -> MemoryKeyValues:
        """Return keys and values for `layer`; each state is projected once, at the first look."""
        seen = self._seen.get(layer)
        if seen is None or seen.keys.shape[1] != self.hidden.shape[0]:
            seen = self._seen[layer] = self._look(layer, seen)
        return seen

    def _look(self, layer: CrossAttention, before: MemoryKeyValues | None) -> MemoryKeyValues:
        if before is None:
            return MemoryKeyValues(*layer.project(self.hidden), self._bias())
        keys, values = layer.project(self.hidden[before.keys.shape[1] :])
        keys, values = torch.cat((before.keys, keys), 1), torch.cat((before.values, values), 1)
        return MemoryKeyValues(keys, values, self._bias())

    def _seen_until(self, states: int) -> dict[CrossAttention, MemoryKeyValues]:
        return {layer: seen.until(states) for layer, seen in self._seen.items()}

    def _bias(self) -> torch.Tensor | None:
        """Return the logarithms of the weights (1, S): a weight multiplies the attention."""
        if all(weight == 1 for weight in self.weights):
            return None
        return torch.tensor([self.weights], device=self.hidden.device).log().to(self.hidden.dtype)
