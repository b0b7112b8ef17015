"""A large int8 matrix, multiplied in whole numbers by a CPU that has instructions for it.

oneDNN, which torch is built with, multiplies 8-bit inputs by 8-bit weights at the speed of memory:
0.42 ms for one row by 576 x 49152 where `_weight_int8pack_mm` takes 1.1, and 1.2 ms for eight where
that takes 5.8. But 8 bits are too few for the inputs of a language model, whose largest number in a
row may be hundreds of times the usual one (all of SmolLM2-135M so: 4 % of perplexity). So each row
goes in as two, the second one holding what the first one rounds off: 15 bits together.
"""

from collections.abc import Sequence
from functools import cache

import torch

from sovl_daemon.engine.model import quantise
from sovl_daemon.engine.model.precision import Precision

HAS_QLINEAR = hasattr(torch.ops.onednn, "qlinear_pointwise")


class VnniMatrix:
    """8 bits a weight and a scale for each output.

    `parts` are the weights, one below the other, to be taken as `dtype`. A row's product does not
    depend on the rows beside it.
    """

    precision: Precision = "int8"

    def __init__(self, parts: Sequence[torch.Tensor], dtype: torch.dtype) -> None:
        out, width = sum(map(len, parts)), parts[0].shape[1]
        values = torch.empty(out, width, dtype=torch.int8)
        self._scales = torch.empty(out)
        for rows, weight in quantise.chunks(parts, dtype):
            values[rows], self._scales[rows] = quantise.int8(weight)
        self._zeros = torch.zeros(out, dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(values, [2, width])
        self._highest = highest()

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
def highest() -> int:
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
