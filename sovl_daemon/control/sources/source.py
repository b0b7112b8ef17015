"""What a source is, and what of what it is told counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

Values = Mapping[str, float | None]
"""Values by the metric's name; None where there is none to be had now."""


class MetricSource(Protocol):
    """Reads some metrics at once; quick, and without an error for what this machine lacks."""

    def read(self) -> Values:
        """Read now."""
        ...


def plausible(value: object, low: float = 0.0, high: float = math.inf) -> float | None:
    """Return a sensor's value as a number; None for what none can be: text, NaN, out of bounds."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if low <= number <= high and math.isfinite(number) else None
