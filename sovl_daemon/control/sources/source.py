"""What a source is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Values = Mapping[str, float | None]
"""Values by the metric's name; None where there is none to be had now."""


class Source(Protocol):
    """Reads some metrics at once; quick, and without an error for what this machine lacks."""

    def read(self) -> Values:
        """Read now."""
        ...
