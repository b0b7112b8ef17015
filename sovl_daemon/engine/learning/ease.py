"""How gently a training goes on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ease:
    """Factors above 0, at most 1.

    `rate` is one on the learning rate; `batch` the share of a micro-batch that is computed at a
    time, in whole rows: the update is the same sum, only what dropout leaves out is drawn anew.
    """

    rate: float = 1.0
    batch: float = 1.0
