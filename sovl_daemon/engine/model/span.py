"""Some new tokens of one conversation, to be read in one forward pass with those of others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Token ids that follow what `cache`, which the model has made, holds."""

    ids: Sequence[int]
    cache: Any
