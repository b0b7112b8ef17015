"""What the engine's loops need from a model."""

from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from sovl_daemon.engine.model.kv_cache import Cache
from sovl_daemon.engine.model.span import Span


class LanguageModel(Protocol):
    """A cache for each conversation, and the logits behind what was read last."""

    @property
    def stamp(self) -> Hashable:
        """Whatever else but the ids decides what a cache holds; another stamp, other caches."""

    def new_cache(self) -> Cache:
        """Return an empty key-value cache for one sequence."""

    def listen(self, prompt: Sequence[int], cache: Cache, *, since: int) -> None:
        """Hear of a prompt, as far as it is about to be read; its end is at position `since`."""

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        """Read each span after what its cache holds; return the next tokens' logits, (B, vocab).

        A pass that fails leaves the caches as they were.
        """
