"""Weights from one number format to another.

torch goes from float16 to bfloat16 ten times more slowly than from either to float32 (on an AVX512
CPU 1.2 against 0.12 ms for 1536 x 576), so it is done by way of that, some rows at a time. The
result is the same: every float16 is a float32.
"""

import torch

_AT_ONCE = 1 << 18  # weights, whose float32 copies stay in the cache


def fill(whole: torch.Tensor, weights: torch.Tensor) -> None:
    """Write `weights` (out, in) into `whole`, in the format and on the device of that."""
    if not _is_slow(weights, whole):
        whole.copy_(weights)
        return
    rows = max(1, _AT_ONCE // int(weights.shape[1]))
    for into, some in zip(whole.split(rows), weights.split(rows), strict=True):
        into.copy_(some.float())


def as_format_of(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return `weights` (out, in) in the format and on the device of `x`; themselves if they are."""
    if not _is_slow(weights, x):
        return weights.to(x.device, x.dtype)
    whole = torch.empty(weights.shape, dtype=x.dtype)
    fill(whole, weights)
    return whole


def _is_slow(weights: torch.Tensor, like: torch.Tensor) -> bool:
    halves = (weights.dtype, like.dtype) == (torch.float16, torch.bfloat16)
    return halves and weights.device.type == like.device.type == "cpu"
