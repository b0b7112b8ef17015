"""The matrix of a linear layer, held as it is, in 8 or 4 bits a weight, or not at all.

The packed matmuls are private operators of torch. Each has a plain equal beside it, which takes
over where the operator is missing: it multiplies by the dequantised matrix.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Protocol

import torch
from torch.nn import functional

from sovl_daemon.engine.model import formats
from sovl_daemon.engine.model.bnb_matrix import BnbInt4Matrix, BnbInt8Matrix
from sovl_daemon.engine.model.precision import Holding, Precision
from sovl_daemon.engine.model.product import is_faster, product

# Rows from which multiplying by the dequantised matrix is faster than the packed operator
# (measured with 576 x 3072 in bfloat16: at 16 rows 0.39 against 0.43 ms, at 128 8.0 against 1.4).
_MANY_ROWS = 16
# Weights of an offloaded matrix that are copied at a time.
_COPY, _COPY_TO_CARD = 1 << 18, 1 << 24
# Weights that whole numbers are tried with.
_TRIAL, _TRIAL_ROWS = (16384, 576), 8
# Their float32 forms take ten to thirty times as long as those in bfloat16 on every CPU measured
# (int4, 1536 x 576, one row: 1.8 ms against 0.07 to 0.11; 8 rows in 8 bits: 7 against 0.4).
_PACKED = torch.bfloat16
# Both operators want the number of outputs in whole blocks; that of 8 bits the inputs too, or it
# reads past their end in bfloat16.
_KERNEL_BLOCK = 16

HAS_INT8 = hasattr(torch.ops.aten, "_weight_int8pack_mm")
HAS_INT4 = hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
HAS_QLINEAR = hasattr(torch.ops.onednn, "qlinear_pointwise")


class Matrix(Protocol):
    """Weights (out, in) to multiply by."""

    @property
    def precision(self) -> Holding:
        """How they are held."""

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
        return product(x, self.weight)

    def tensors(self) -> list[torch.Tensor]:
        """Return the weights alone."""
        return [self.weight]


class OffloadedMatrix:
    """Weights that stay where they are, mapped from a file, and are read for each product.

    What is read lies in the page cache, which the system takes back where memory is short. A GPU,
    or one that computes in another format, gets some rows at a time. `parts` are the weights, one
    below the other.
    """

    precision: Holding = "offloaded"

    def __init__(self, parts: Sequence[torch.Tensor]) -> None:
        self._parts = tuple(parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out)."""
        # At once, if no copy is needed to multiply; else as many as a copy of stays in the cache.
        copied = _COPY if x.device.type == "cpu" else _COPY_TO_CARD
        rows: list[torch.Tensor] = []
        for part in self._parts:
            if (part.device, part.dtype) == (x.device, x.dtype):
                rows.append(part)
            else:
                rows += part.split(max(1, copied // int(part.shape[1])))
        parts = [product(x, formats.as_format_of(x, some)) for some in rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def tensors(self) -> list[torch.Tensor]:
        """Return the weights as they are in the file."""
        return list(self._parts)


class Int8Matrix:
    """8 bits a weight and a scale for each output; `kernel` asks for torch's packed operator.

    `parts` are the weights, one below the other, to be taken as `dtype`. Few rows in float32 are
    multiplied in bfloat16.
    """

    precision: Precision = "int8"

    def __init__(
        self, parts: Sequence[torch.Tensor], dtype: torch.dtype, *, kernel: bool = HAS_INT8
    ) -> None:
        out, width = _shape(parts)
        self.kernel = kernel and out % _KERNEL_BLOCK == 0 and width % _KERNEL_BLOCK == 0
        self.values = torch.empty(out, width, dtype=torch.int8, device=parts[0].device)
        self.scales = parts[0].new_empty(out, dtype=_packed_dtype(dtype))
        for rows, weight in formats.row_chunks(parts, dtype):
            self.values[rows], self.scales[rows] = formats.int8(weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out)."""
        if self.kernel and len(x) < _MANY_ROWS:
            few = x.to(self.scales.dtype)
            y: torch.Tensor = torch.ops.aten._weight_int8pack_mm(few, self.values, self.scales)
            return y.to(x.dtype)
        return product(x, self.values) * self.scales

    def tensors(self) -> list[torch.Tensor]:
        """Return the values and their scales."""
        return [self.values, self.scales]


class Int4Matrix:
    """4 bits a weight, scale and zero point for each 32 of them along a row.

    `parts` are the weights, one below the other, to be taken as `dtype`. Rows in float32
    are multiplied in bfloat16 by the kernel.
    """

    precision: Precision = "int4"

    def __init__(
        self, parts: Sequence[torch.Tensor], dtype: torch.dtype, *, kernel: bool = HAS_INT4
    ) -> None:
        out, width = _shape(parts)
        self.kernel = kernel and out % _KERNEL_BLOCK == 0
        self.values = torch.empty(out, width // 2, dtype=torch.uint8)
        shape = width // formats.INT4_GROUP, out, 2  # scale, zero
        self.scales = torch.empty(shape, dtype=_packed_dtype(dtype))
        for rows, weight in formats.row_chunks(parts, dtype):
            values, self.scales[:, rows] = formats.int4(weight)
            if self.kernel:
                values = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
            else:
                values = (values[:, ::2] | values[:, 1::2] << 4).to(torch.uint8)
            self.values[rows] = values

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out)."""
        if not self.kernel:
            values = torch.stack((self.values & 15, self.values >> 4), -1)  # (out, in / 2, 2)
            groups = values.view(len(values), -1, formats.INT4_GROUP).to(self.scales.dtype) - 8
            scale, zero = self.scales.transpose(0, 1).unsqueeze(-2).unbind(-1)  # (out, groups, 1)
            weights = (groups * scale + zero).view(len(values), -1)
            return functional.linear(x, weights.to(x.dtype))
        rows = x.to(self.scales.dtype)
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self.values, formats.INT4_GROUP, self.scales
        )
        return y.to(x.dtype)

    def tensors(self) -> list[torch.Tensor]:
        """Return the packed values, and the scales with the zero points."""
        return [self.values, self.scales]


class VnniMatrix:
    """8 bits a weight and a scale for each output, multiplied in whole numbers.

    oneDNN, which torch is built with, multiplies 8-bit inputs by 8-bit weights at the speed of
    memory: 0.42 ms for one row by 576 x 49152 where `_weight_int8pack_mm` takes 1.1, and 1.2 ms for
    eight where that takes 5.8. But 8 bits are too few for the inputs of a language model, whose
    largest number in a row may be hundreds of times the usual one (all of SmolLM2-135M so: 4 % of
    perplexity). So each row goes in as two, the second one holding what the first one rounds off:
    15 bits together.

    `parts` are the weights, one below the other, to be taken as `dtype`. A row's product does not
    depend on the rows beside it.
    """

    precision: Precision = "int8"

    def __init__(self, parts: Sequence[torch.Tensor], dtype: torch.dtype) -> None:
        out, width = sum(map(len, parts)), parts[0].shape[1]
        values = torch.empty(out, width, dtype=torch.int8)
        self._scales = torch.empty(out)
        for rows, weight in formats.row_chunks(parts, dtype):
            values[rows], self._scales[rows] = formats.int8(weight)
        self._zeros = torch.zeros(out, dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(values, [2, width])
        self._highest = max_exact_input()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out)."""
        step = torch.linalg.vector_norm(x, torch.inf, -1, True, dtype=torch.float32)
        highest = self._highest
        step = step.div_(highest).clamp_min_(torch.finfo(torch.float32).tiny)
        # A row that is not finite comes out as NaN, but must not touch the others.
        exact = (x / step).nan_to_num_(0)
        first = exact.round()
        # Half a step of the first row is as many of the second as 8 bits, or 7, can count.
        rest = exact.sub_(first).mul_(2 * highest).round_()
        both = torch.cat((first, rest)).add_(highest + 1).to(torch.uint8)
        first, rest = self._product(both).chunk(2)
        return torch.add(first, rest, alpha=0.5 / highest).mul_(step).to(x.dtype)

    def tensors(self) -> list[torch.Tensor]:
        """Return the values and their scales, unpacked."""
        return [self._packed.to_dense(torch.int8).t(), self._scales]

    def _product(self, whole: torch.Tensor) -> torch.Tensor:
        """Multiply whole numbers, (rows, in) unsigned; float32 (rows, out)."""
        return _product(whole, self._highest + 1, self._packed, self._scales, self._zeros)


@cache
def max_exact_input() -> int:
    """Return the largest input that is multiplied exactly: 127, or 63.

    Without the instructions two products are added in 16 bits, which inputs of 7 cannot overflow.
    Whether it has them oneDNN decides, which may be told to do without, so it is tried.
    """
    width = 64
    values = torch.full((16, width), 127, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(values, [1, width])
    scales, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int32)
    y = _product(torch.full((1, width), 255, dtype=torch.uint8), 0, packed, scales, zeros)
    return 127 if bool((y == 255 * 127 * width).all()) else 63


def _product(
    whole: torch.Tensor,
    zero: int,
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
) -> torch.Tensor:
    y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        whole, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y


def stack(
    parts: Sequence[torch.Tensor],
    dtype: torch.dtype,
    precision: Holding,
    *,
    few_rows: bool,
    device: torch.device | None = None,
) -> Matrix:
    """Hold matrices of one width, one below the other; offloaded ones alone share their memory.

    They are taken as `dtype`, then held in `precision` on `device`, that of `parts` if none is
    given. `few_rows` tells that they will rarely multiply more than some ten rows at once.
    """
    if precision == "offloaded":
        return OffloadedMatrix(parts)
    place = device or parts[0].device
    if precision in ("fp32", "fp16"):
        whole = torch.empty(_shape(parts), dtype=dtype, device=place)
        for rows, part in zip(whole.split([len(part) for part in parts]), parts, strict=True):
            formats.fill(rows, part)
        return PlainMatrix(whole, precision)
    if place.type == "cuda":
        return (BnbInt8Matrix if precision == "int8" else BnbInt4Matrix)(parts, dtype, place)
    if precision == "int4":
        return Int4Matrix(parts, dtype)
    # Over a long prompt it is the slower one, and there is no fast way back to its weights.
    wide = few_rows and HAS_QLINEAR and whole_numbers_are_faster(dtype)
    return (VnniMatrix if wide else Int8Matrix)(parts, dtype)


@cache
def whole_numbers_are_faster(dtype: torch.dtype) -> bool:
    """Whether a large matrix multiplies a few rows faster in whole numbers; measured once."""
    weight, x = torch.ones(_TRIAL, dtype=dtype), torch.ones(_TRIAL_ROWS, _TRIAL[1], dtype=dtype)
    with torch.inference_mode():
        whole, packed = VnniMatrix([weight], dtype), Int8Matrix([weight], dtype)
        return is_faster(partial(whole, x), partial(packed, x))


def _packed_dtype(dtype: torch.dtype) -> torch.dtype:
    return _PACKED if dtype == torch.float32 else dtype


def _shape(parts: Sequence[torch.Tensor]) -> tuple[int, int]:
    return sum(map(len, parts)), parts[0].shape[1]
