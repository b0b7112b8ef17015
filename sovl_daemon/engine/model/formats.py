"""Weights from one number format to another, 8 and 4 bits among them.

torch goes from float16 to bfloat16 ten times more slowly than from either to float32 (on an AVX512
CPU 1.2 against 0.12 ms for 1536 x 576), so it is done by way of that, some rows at a time. The
result is the same: every float16 is a float32.
"""

from collections.abc import Iterator, Sequence

import torch

_AT_ONCE = 1 << 18  # weights, whose float32 copies stay in the cache, and small beside the matrix


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


INT4_GROUP = 32
# The packed 4-bit operator lays out this many rows together.
_PACKING_BLOCK = 64


def int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 values (out, in) and scales (out,), with weight close to values * scales."""
    exact = weight.float()
    # Rounded to the format of the scales first, so that the values make up for it.
    scales = (exact.abs().amax(1) / 127).to(weight.dtype).clamp_min(_tiny(weight))
    values = (exact / scales.float()[:, None]).round_().clamp_(-127, 127)
    return values.to(torch.int8), scales


def int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values 0..15 (out, in) as int32, and scale and zero point (in / 32, out, 2).

    In each group of 32 the weights are close to (values - 8) * scale + zero.
    """
    groups = weight.float().view(len(weight), -1, INT4_GROUP)
    # Together (aminmax) they would take 7 times as long as one after the other.
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).to(weight.dtype).clamp_min(_tiny(weight))
    zero = (low + 8 * scale.float()).to(weight.dtype)
    values = (groups - zero.float()).div_(scale.float()).round_().add_(8).clamp_(0, 15)
    scales = torch.cat((scale, zero), -1).transpose(0, 1)
    return values.view(len(weight), -1).to(torch.int32), scales


def row_chunks(
    parts: Sequence[torch.Tensor], dtype: torch.dtype
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the rows of `parts`, one below the other, some at a time, as `dtype`; and which."""
    count, width = sum(map(len, parts)), parts[0].shape[1]
    rows = max(_AT_ONCE // (width * _PACKING_BLOCK), 1) * _PACKING_BLOCK
    for start in range(0, count, rows):
        where = slice(start, min(start + rows, count))
        some = _rows(parts, where.start, where.stop)
        yield where, as_format_of(some.new_empty(0, dtype=dtype), some)


def _rows(parts: Sequence[torch.Tensor], start: int, stop: int) -> torch.Tensor:
    found = []
    for part in parts:
        found.append(part[max(start, 0) : max(stop, 0)])
        start, stop = start - len(part), stop - len(part)
    return torch.cat(found)


def _tiny(weight: torch.Tensor) -> float:
    return float(torch.finfo(weight.dtype).tiny)
