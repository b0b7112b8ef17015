"""The matrix of a linear layer, held as it is or in 8 or 4 bits a weight.

The packed matmuls are private operators of torch. Each has a plain equal beside it, which takes
over where the operator is missing: it multiplies by the dequantised matrix.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch.nn import functional

from sovl_daemon.engine.precision import Precision

INT4_GROUP = 32
# Rows from which multiplying by the dequantised matrix is faster than the packed operator
# (measured with 576 x 3072 in bfloat16: at 16 rows 0.39 against 0.43 ms, at 128 8.0 against 1.4).
_MANY_ROWS = 16
# Both operators want the number of outputs in whole blocks.
_OUTPUT_BLOCK = 16
# Weights quantised at once, so that their float32 copies stay small beside the matrix.
_QUANTISED_AT_ONCE = 2**18
_PACKING_BLOCK = 64

HAS_INT8 = hasattr(torch.ops.aten, "_weight_int8pack_mm")
HAS_INT4 = hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")


class Matrix(Protocol):
    """Weights (out, in) to multiply by."""

    precision: Precision

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out), in the format of `x`."""

    def tensors(self) -> list[torch.Tensor]:
        """Return what is held."""


class PlainMatrix:
    """Weights as they are."""

    def __init__(self, weight: torch.Tensor, precision: Precision) -> None:
        self.precision = precision
        self.weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out)."""
        return functional.linear(x, self.weight)

    def tensors(self) -> list[torch.Tensor]:
        """Return the weights alone."""
        return [self.weight]


class Int8Matrix:
    """8 bits a weight and a scale for each output; `kernel` asks for torch's packed operator."""

    precision: Precision = "int8"

    def __init__(self, weight: torch.Tensor, *, kernel: bool = HAS_INT8) -> None:
        self.kernel = kernel and _kernel_takes(weight)
        self.values = torch.empty_like(
            weight, dtype=torch.int8, memory_format=torch.contiguous_format
        )
        self.scales = weight.new_empty(len(weight))  # (out,)
        for rows in _chunks(weight):
            self.values[rows], self.scales[rows] = quantise_int8(weight[rows])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out)."""
        if self.kernel and len(x) < _MANY_ROWS:
            y: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, self.values, self.scales)
            return y
        return functional.linear(x, self.values.to(x.dtype)) * self.scales

    def tensors(self) -> list[torch.Tensor]:
        """Return the values and their scales."""
        return [self.values, self.scales]


class Int4Matrix:
    """4 bits a weight, scale and zero point for each 32 of them along a row."""

    precision: Precision = "int4"

    def __init__(self, weight: torch.Tensor, *, kernel: bool = HAS_INT4) -> None:
        out, width = weight.shape
        self.kernel = kernel and _kernel_takes(weight)
        self.values = torch.empty(out, width // 2, dtype=torch.uint8)
        self.scales = weight.new_empty(width // INT4_GROUP, out, 2)  # scale, zero
        for rows in _chunks(weight):
            values, self.scales[:, rows] = quantise_int4(weight[rows])
            self.values[rows] = self._pack(values)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out)."""
        if not self.kernel:
            return functional.linear(x, self._dequantised())
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self.values, INT4_GROUP, self.scales
        )
        return y

    def tensors(self) -> list[torch.Tensor]:
        """Return the packed values, and the scales with the zero points."""
        return [self.values, self.scales]

    def _pack(self, values: torch.Tensor) -> torch.Tensor:
        if self.kernel:
            packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
            return packed
        return (values[:, ::2] | values[:, 1::2] << 4).to(torch.uint8)

    def _dequantised(self) -> torch.Tensor:
        values = torch.stack((self.values & 15, self.values >> 4), -1)  # (out, in / 2, 2)
        groups = values.view(len(values), -1, INT4_GROUP).to(self.scales.dtype) - 8
        scale, zero = self.scales.transpose(0, 1).unsqueeze(-2).unbind(-1)  # (out, groups, 1)
        return (groups * scale + zero).view(len(values), -1)


def stack(parts: Sequence[torch.Tensor], precision: Precision) -> Matrix:
    """Hold matrices of one width, one below the other, in `precision`; nothing shares memory."""
    if precision in ("fp32", "fp16"):
        return PlainMatrix(torch.cat(list(parts)), precision)
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return Int8Matrix(whole) if precision == "int8" else Int4Matrix(whole)


def quantise_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 values (out, in) and scales (out,), with weight close to values * scales."""
    exact = weight.float()
    # Rounded to the format of the scales first, so that the values make up for it.
    scales = (exact.abs().amax(1) / 127).to(weight.dtype).clamp_min(_tiny(weight))
    values = (exact / scales.float()[:, None]).round_().clamp_(-127, 127)
    return values.to(torch.int8), scales


def quantise_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values 0..15 (out, in) as int32, and scale and zero point (in / 32, out, 2).

    In each group of 32 the weights are close to (values - 8) * scale + zero.
    """
    groups = weight.float().view(len(weight), -1, INT4_GROUP)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    scale = ((high - low) / 15).to(weight.dtype).clamp_min(_tiny(weight))
    zero = (low + 8 * scale.float()).to(weight.dtype)
    values = (groups - zero.float()).div_(scale.float()).round_().add_(8).clamp_(0, 15)
    scales = torch.cat((scale, zero), -1).transpose(0, 1)
    return values.view(len(weight), -1).to(torch.int32), scales


def _kernel_takes(weight: torch.Tensor) -> bool:
    return len(weight) % _OUTPUT_BLOCK == 0


def _tiny(weight: torch.Tensor) -> float:
    return float(torch.finfo(weight.dtype).tiny)


def _chunks(weight: torch.Tensor) -> Iterator[slice]:
    blocks = _QUANTISED_AT_ONCE // (weight.shape[1] * _PACKING_BLOCK)
    rows = max(blocks, 1) * _PACKING_BLOCK
    return (slice(start, start + rows) for start in range(0, len(weight), rows))
