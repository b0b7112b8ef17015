"""A large int8 matrix, multiplied in whole numbers by a CPU that has instructions for it.

FBGEMM, which torch is built with, multiplies 8-bit inputs by 8-bit weights at the speed of memory:
0.97 ms for one row by 576 x 49152 where `_weight_int8pack_mm` takes 1.92, and 1.1 ms for eight
where that takes 5.5. But 8 bits are too few for the inputs of a language model, whose largest
number in a row may be hundreds of times the usual one (all of SmolLM2-135M so: 4 % of perplexity).
So each row goes in as two, the second one holding what the first one rounds off: 15 bits together.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sovl_daemon.engine import quantise
from sovl_daemon.engine.precision import Precision

# FBGEMM uses those of AVX512; its tensors of 8 bits are to leave torch some day.
HAS_VNNI = (
    torch.cpu._is_vnni_supported()
    and "fbgemm" in torch.backends.quantized.supported_engines
    and hasattr(torch, "_make_per_channel_quantized_tensor")
)
warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor.* deprecated")


class VnniMatrix:
    """8 bits a weight and a scale for each output.

    `parts` are the weights, one below the other, to be taken as `dtype`. A row's product does not
    depend on the rows beside it. Without `vnni` FBGEMM adds products in 16 bits, which inputs of
    7 bits cannot overflow.
    """

    precision: Precision = "int8"

    def __init__(
        self, parts: Sequence[torch.Tensor], dtype: torch.dtype, *, vnni: bool = HAS_VNNI
    ) -> None:
        out, width = sum(map(len, parts)), parts[0].shape[1]
        values, scales = torch.empty(out, width, dtype=torch.int8), torch.empty(out, dtype=dtype)
        for rows, weight in quantise.chunks(parts, dtype):
            values[rows], scales[rows] = quantise.int8(weight)
        self._packed = _pack(values, scales)
        self._vnni = vnni
        self._highest = 127 if vnni else 63
        # FBGEMM fits its steps to the lowest and the highest number: these make them 1.
        self._ends = torch.zeros(1, width)
        self._ends[0, 0], self._ends[0, -1] = -self._highest - 1, self._highest

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out)."""
        step = torch.linalg.vector_norm(x, torch.inf, -1, True, dtype=torch.float32)
        step = step.div_(self._highest).clamp_min_(torch.finfo(torch.float32).tiny)
        # A row that is not finite comes out as NaN, but must not touch the others.
        exact = (x / step).nan_to_num_(0)
        first = exact.round()
        # Half a step of the first row is as many of the second as 8 bits, or 7, can count.
        rest = exact.sub_(first).mul_(2 * self._highest)
        both = torch.cat((first, rest, self._ends))
        y = torch.ops.quantized.linear_dynamic(both, self._packed, not self._vnni)
        first, rest, _ = y.split((len(x), len(x), 1))
        return torch.add(first, rest, alpha=0.5 / self._highest).mul_(step).to(x.dtype)

    def tensors(self) -> list[torch.Tensor]:
        """Return the values and their scales, unpacked."""
        values, _ = torch.ops.quantized.linear_unpack(self._packed)
        return [values.int_repr(), values.q_per_channel_scales().float()]


def _pack(values: torch.Tensor, scales: torch.Tensor) -> Any:
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    weight = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
    with _fbgemm():
        return torch.ops.quantized.linear_prepack(weight, None)


@contextmanager
def _fbgemm() -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
