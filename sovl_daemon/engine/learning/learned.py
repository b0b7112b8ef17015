"""What a fusion has learned, as tensors by name, and back."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.learning.candidate import Candidate, adapter_parameters

_ATTENTION, _ADAPTER = "attention.", "adapter."


def attentions_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return those of a candidate's tensors that are the attentions'."""
    return {name: each for name, each in state.items() if name.startswith(_ATTENTION)}


def adapters_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return those of a candidate's tensors that are the adapters'."""
    return {name: each for name, each in state.items() if name.startswith(_ADAPTER)}


def tensors_of(fusion: Fusion) -> dict[str, torch.Tensor]:
    """Return all that the fusion has learned, copied, under a candidate's names."""
    found: dict[str, torch.Tensor] = {}
    for layer, attention in fusion.attentions.items():
        if not attention.fresh:
            for name, each in attention.named_parameters():
                found[f"{_ATTENTION}{layer}.{name}"] = each.detach().clone()
    for name, each in adapter_parameters(fusion).items():
        found[f"{_ADAPTER}{name}"] = each.detach().clone()
    return found


def prepared(
    fusion: Fusion, state: Mapping[str, torch.Tensor], token_map: dict[str, Any]
) -> Callable[[], None]:
    """Return what makes the fusion become what `tensors_of` returned; without any, new-born.

    Nothing is changed before that is called, on the tensor thread, and it does not fail.
    `token_map` is the state of the token map, empty if that has learned nothing.

    Raises:
        OptionError: it is of another base or scaffold, or of other ranks or layers.
        ArtifactError: the token map is damaged, or of another base.

    """
    layers = sorted({int(name.split(".")[1]) for name in attentions_of(state)})
    if any(layer >= fusion.depth for layer in layers):
        raise OptionError(
            f"what was learned is of layer {layers[-1]}, the base has {fusion.depth}: it is of "
            "another base model"
        )
    candidate = Candidate(fusion, layers, adapters=bool(adapters_of(state)))
    candidate.load(state)
    tokens = fusion.tokens
    if tokens is not None and token_map:
        tokens.checked(token_map)

    def become() -> None:
        fusion.forget()
        candidate.commit()
        if tokens is not None and token_map:
            tokens.restore(token_map)
        elif tokens is not None:
            tokens.forget()

    return become
