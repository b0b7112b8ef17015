"""Which layers of the base get cross-attention."""

from collections.abc import Sequence
from typing import Literal

from sovl_daemon.engine.errors import OptionError

Mode = Literal["early", "balanced", "late"]

_THIRDS: dict[Mode, int] = {"early": 0, "balanced": 1, "late": 2}


def third(mode: Mode, layers: int) -> tuple[int, ...]:
    """Return the first, middle or last third of `layers` layers, never none of them.

    early is [0, L/3), balanced [L/3, 2L/3), late [2L/3, L).
    """
    part = _THIRDS[mode]
    start, end = part * layers // 3, (part + 1) * layers // 3
    return tuple(range(start, end)) or (min(start, layers - 1),)


def spread(layers: int) -> tuple[int, ...]:
    """Return five of `layers` layers, evenly over the upper half; fewer where there are few.

    These learned best of what was tried; see docs/learning.md.
    """
    return tuple(sorted({layers // 2 + part * layers // 10 for part in range(5)}))


def existing(asked: Sequence[int], layers: int) -> tuple[int, ...]:
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
