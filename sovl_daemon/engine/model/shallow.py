"""The first blocks of a model, read no further: hidden states, at a part of the cost."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.model.kv_cache import Cache, NetworkCache, Span
from sovl_daemon.engine.model.model import LoadedModel


class Shallow:
    """A model down to `layers` blocks. Nothing steers it, so it is the frozen base alone.

    A lean model has caches for these blocks only. The network of another is run with a hook that
    ends its pass early; its caches stay empty below.

    Raises:
        OptionError: the model has no such layer.

    """

    def __init__(self, model: LoadedModel, layers: int) -> None:
        if not 1 <= layers <= model.layers:
            raise OptionError(f"layer {layers} is not allowed: give 1 to {model.layers}")
        self.layers = layers
        self._model = model
        lean = model.lean
        self._lean = lean.with_blocks(lean.blocks[:layers]) if lean is not None else None

    @property
    def stamp(self) -> int:
        """What is read here is never out of date."""
        return 0

    def new_cache(self) -> Cache:
        """Return an empty cache for one prompt."""
        if self._lean is not None:
            return self._lean.new_cache()
        return NetworkCache(self._model.network.config)

    def read(self, ids: Sequence[int], cache: Any) -> torch.Tensor:
        """Read what follows in a prompt; return the hidden states (T, hidden), float32."""
        with torch.inference_mode():
            if self._lean is not None:
                hidden, _ = self._lean.read([Span(ids, cache)])
                return hidden.float()
            return self._through_the_network(ids, cache).float()

    def _through_the_network(self, ids: Sequence[int], cache: NetworkCache) -> torch.Tensor:
        cache.settle()  # a failed pass may have left something
        found: list[torch.Tensor] = []
        block = self._model._blocks()[self.layers - 1]
        hook = block.register_forward_hook(partial(_stop, found))
        try:
            self._model.network(
                input_ids=torch.tensor([ids], device=self._model.device),
                past_key_values=cache.dynamic,
                use_cache=True,
                logits_to_keep=1,
            )
        except _DeepEnoughError:
            pass
        finally:
            hook.remove()
        cache.advance(len(ids))
        return found[0]


class _DeepEnoughError(Exception):
    """Ends a pass through the network."""


def _stop(found: list[torch.Tensor], block: Any, inputs: Any, output: Any) -> None:
    del block, inputs
    found.append(output[0] if isinstance(output, torch.Tensor) else output[0][0])
    raise _DeepEnoughError
