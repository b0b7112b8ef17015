"""What learns at night beside what answers, and all that was learned as tensors by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.fusion.cross_attention import CrossAttention
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.text.token_map import TokenMapState


class Candidate:
    """Float32 copies of the attentions behind `layers` and of the scaffold's adapters.

    What answers does not change until `commit`. `adapters` have the names that their parameters
    have in the scaffold's network below its head; without `adapters` there are none, by default
    where the fusion's scaffold reads without them.
    """

    def __init__(
        self, fusion: Fusion, layers: Sequence[int], *, adapters: bool | None = None
    ) -> None:
        if adapters is None:
            adapters = fusion.steering.adapters
        self._fusion = fusion
        self.attentions: dict[int, CrossAttention] = {
            layer: deepcopy(fusion.attention(layer)).requires_grad_(True) for layer in layers
        }
        live = adapter_parameters(fusion) if adapters else {}
        self.adapters = {
            name: nn.Parameter(each.detach().clone().float()) for name, each in live.items()
        }

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield all that learns, by a name that is the same in every process."""
        for layer, attention in self.attentions.items():
            for name, parameter in attention.named_parameters():
                yield f"attention.{layer}.{name}", parameter
        for name, parameter in self.adapters.items():
            yield f"adapter.{name}", parameter

    def state(self) -> dict[str, torch.Tensor]:
        """Return copies of all that learns."""
        return {name: each.detach().clone() for name, each in self.named_parameters()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` returned.

        Raises:
            OptionError: it is of other layers or adapters.

        """
        mine = dict(self.named_parameters())
        odd = mine.keys() ^ state.keys()
        wrong = [
            name for name in mine.keys() & state.keys() if mine[name].shape != state[name].shape
        ]
        if odd or wrong:
            raise OptionError(
                f"the learned weights do not fit ({min([*odd, *wrong])}): they are of other "
                "layers, ranks or models; choose those they were learned with"
            )
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(state[name])

    def commit(self) -> None:
        """Let what was learned answer from now on."""
        with torch.no_grad():
            for layer, attention in self.attentions.items():
                self._fusion.attention(layer).load_state_dict(attention.state_dict())
            live = adapter_parameters(self._fusion)
            for name, parameter in self.adapters.items():
                live[name].copy_(parameter)
        self._fusion.refresh()


def adapter_parameters(fusion: Fusion) -> dict[str, nn.Parameter]:
    """Return the low-rank matrices that answer, by their names below the network's head."""
    network = fusion.scaffold.adapters.get_base_model().base_model
    return {name: each for name, each in network.named_parameters() if ".lora_" in name}


_ATTENTION, _ADAPTER = "attention.", "adapter."


def attention_tensors(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return those of a candidate's tensors that are the attentions'."""
    return {name: each for name, each in state.items() if name.startswith(_ATTENTION)}


def adapter_tensors(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return those of a candidate's tensors that are the adapters'."""
    return {name: each for name, each in state.items() if name.startswith(_ADAPTER)}


def learned_tensors(fusion: Fusion) -> dict[str, torch.Tensor]:
    """Return all that the fusion has learned, copied, under a candidate's names."""
    found: dict[str, torch.Tensor] = {}
    for layer, attention in fusion.attentions.items():
        if not attention.fresh:
            for name, each in attention.named_parameters():
                found[f"{_ATTENTION}{layer}.{name}"] = each.detach().clone()
    for name, each in adapter_parameters(fusion).items():
        found[f"{_ADAPTER}{name}"] = each.detach().clone()
    return found


def prepare_restore(
    fusion: Fusion, state: Mapping[str, torch.Tensor], token_map: TokenMapState | None
) -> Callable[[], None]:
    """Return what makes the fusion become what `learned_tensors` returned; without any, new-born.

    Nothing is changed before that is called, on the tensor thread, and it does not fail.
    `token_map` is the state of the token map, None if that has learned nothing.

    Raises:
        OptionError: it is of another base or scaffold, or of other ranks or layers.
        ArtifactError: the token map is of another base.

    """
    layers = sorted({int(name.split(".")[1]) for name in attention_tensors(state)})
    if any(layer >= fusion.depth for layer in layers):
        raise OptionError(
            f"what was learned is of layer {layers[-1]}, the base has {fusion.depth}: it is of "
            "another base model"
        )
    candidate = Candidate(fusion, layers, adapters=bool(adapter_tensors(state)))
    candidate.load(state)
    tokens = fusion.tokens
    if tokens is not None and token_map is not None:
        tokens.check(token_map)

    def become() -> None:
        fusion.forget()
        candidate.commit()
        if tokens is not None and token_map is not None:
            tokens.restore(token_map)
        elif tokens is not None:
            tokens.forget()

    return become
