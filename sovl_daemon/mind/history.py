"""The last few values of a number that changes."""

import math
import statistics
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class History:
    """At most `maxlen` values, the newest last; older ones are forgotten.

    Raises:
        ValueError: `maxlen` is below 1, or a value is not finite.

    """

    values: tuple[float, ...] = ()
    maxlen: int = 5

    def __post_init__(self) -> None:
        if self.maxlen < 1:
            raise ValueError(f"maxlen {self.maxlen} is not allowed: give 1 or more")
        for value in self.values:
            if not math.isfinite(value):
                raise ValueError(f"{value} is not allowed in a history: give finite numbers")
        object.__setattr__(self, "values", tuple(self.values[-self.maxlen :]))

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> "History":
        """Return the history with one more value."""
        return replace(self, values=(*self.values, value))

    def resized(self, maxlen: int) -> "History":
        """Return the history with room for `maxlen` values."""
        return replace(self, maxlen=maxlen)

    @property
    def mean(self) -> float | None:
        """The mean, None while there is no value."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def variance(self) -> float:
        """The variance of the values as a whole population, 0 below two of them."""
        return statistics.pvariance(self.values) if self.values else 0.0
