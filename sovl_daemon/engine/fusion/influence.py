"""How strongly the scaffold steers the base, layer by layer."""

from dataclasses import dataclass

from sovl_daemon.engine.errors import OptionError


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

    def over(self, layers: tuple[int, ...]) -> dict[int, float]:
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
