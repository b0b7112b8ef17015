"""Which layers of the base the scaffold steers, and how strongly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sovl_daemon.engine.errors import OptionError

Mode = Literal["early", "balanced", "late"]

_THIRDS: dict[Mode, int] = {"early": 0, "balanced": 1, "late": 2}


def layers_of_third(mode: Mode, layers: int) -> tuple[int, ...]:
    """Return the first, middle or last third of `layers` layers, never none of them.

    early is [0, L/3), balanced [L/3, 2L/3), late [2L/3, L).
    """
    part = _THIRDS[mode]
    start, end = part * layers // 3, (part + 1) * layers // 3
    return tuple(range(start, end)) or (min(start, layers - 1),)


def spread_layers(layers: int) -> tuple[int, ...]:
    """Return five of `layers` layers, evenly over the upper half; fewer where there are few.

    These learned best of what was tried; see docs/learning.md.
    """
    return tuple(sorted({layers // 2 + part * layers // 10 for part in range(5)}))


def existing_layers(asked: Sequence[int], layers: int) -> tuple[int, ...]:
    """Return the layers `asked` for, in order, each once.

    Raises:
        OptionError: the base has no such layer.

    """
    missing = [layer for layer in asked if not 0 <= layer < layers]
    if missing:
        raise OptionError(
            f"layer {missing[0]} cannot be fused: the base has layers 0 to {layers - 1}"
        )
    return tuple(sorted(set(asked)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """Weights of what cross-attention adds to the base's hidden states.

    `weight` holds for every fused layer, unless `layer_weights` names one for each; `cap` bounds
    them; `blend` is the share of the fused state against the plain one; `factor` is what mood or
    confidence make of it all. 0 is the plain base.

    Raises:
        OptionError: a value is negative, or cap or blend is above 1.

    """

    weight: float = 1.0
    layer_weights: tuple[float, ...] = ()
    cap: float = 0.9
    blend: float = 1.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        values = [self.weight, *self.layer_weights, self.cap, self.blend, self.factor]
        if min(values) < 0 or max(self.cap, self.blend) > 1:
            raise OptionError(
                f"{self} is not allowed: nothing may be negative, cap and blend not above 1"
            )

    def weights_of(self, layers: tuple[int, ...]) -> dict[int, float]:
        """Return the weight of each of `layers`: blend * min(cap, weight * factor).

        Raises:
            OptionError: there are layer weights, but not one for each layer.

        """
        if self.layer_weights and len(self.layer_weights) != len(layers):
            raise OptionError(
                f"{len(self.layer_weights)} layer weights for {len(layers)} fused layers "
                f"({', '.join(map(str, layers))}): give one for each"
            )
        weights = self.layer_weights or (self.weight,) * len(layers)
        return {
            layer: self.blend * min(self.cap, weight * self.factor)
            for layer, weight in zip(layers, weights, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Steering:
    """Which layers steer, how strongly, and whether the scaffold reads with its adapters."""

    layers: tuple[int, ...]
    influence: Influence
    adapters: bool = True
