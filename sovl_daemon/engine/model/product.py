"""The product with a frozen matrix, in the format in which this CPU multiplies fastest.

A CPU without instructions for a 16-bit format takes two to five times as long for many rows in it
as in float32 (AVX512 without BF16), or twenty (AVX2). There the weights stay in 16 bits, half the
memory and half of what one row has to read, and many rows are multiplied by float32 copies of some
of them at a time.
"""

import sys
from functools import cache, partial

import torch
from torch.nn import functional

from sovl_daemon.engine.model.kernels import is_faster

_AT_ONCE = 1 << 18  # weights, whose float32 copies stay in the cache
_TRIAL = (1024, 576)  # weights that it is tried with; far smaller ones are not worth it
_TRIAL_ROWS = (128, 32, 16, 8)
_WORTH_IT = 1 << 16


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x @ weight.T, (rows, in) -> (rows, out), in the format of `x`.

    `weight` (out, in) is in that format or in whole numbers of 8 bits.
    """
    if _is_widened(x, weight):
        return widened(x, weight)
    return functional.linear(x, weight.to(x.dtype))


def widened(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the same by way of float32, a part of the weights at a time."""
    wide, y = x.float(), x.new_empty(len(x), len(weight))
    outputs = max(1, _AT_ONCE // weight.shape[1])
    for into, some in zip(y.split(outputs, 1), weight.split(outputs), strict=True):
        into.copy_(functional.linear(wide, some.float()))
    return y


@cache
def widened_from(dtype: torch.dtype) -> int:
    """Return the number of rows from which float32 copies are clearly faster in a 16-bit format.

    Measured once, in some 50 ms; `sys.maxsize` where the format itself is fast.
    """
    weight, least = torch.ones(_TRIAL, dtype=dtype), sys.maxsize
    with torch.no_grad():
        for rows in _TRIAL_ROWS:
            x = torch.ones(rows, _TRIAL[1], dtype=dtype)
            if not is_faster(partial(widened, x, weight), partial(functional.linear, x, weight)):
                break
            least = rows
    return least


def is_emulated(dtype: torch.dtype) -> bool:
    """Return whether this CPU multiplies many rows faster in float32."""
    return dtype != torch.float32 and widened_from(dtype) < sys.maxsize


def _is_widened(x: torch.Tensor, weight: torch.Tensor) -> bool:
    if x.dtype == torch.float32 or x.device.type != "cpu" or weight.numel() < _WORTH_IT:
        return False
    return len(x) >= _TRIAL_ROWS[-1] and len(x) >= widened_from(x.dtype)
