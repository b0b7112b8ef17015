"""Matrices in 8 and 4 bits on a GPU, multiplied by bitsandbytes.

8 bits are LLM.int8 (Dettmers et al. 2022): inputs in 8 bits too, but those columns of them that
hold a large number in 16. 4 bits are NF4 (Dettmers et al. 2023). bitsandbytes is imported when the
first matrix is made: it takes seconds, and a CPU has kernels that are faster.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from sovl_daemon.engine.errors import OptionError, first_line
from sovl_daemon.engine.model import formats
from sovl_daemon.engine.model.precision import Precision

# From this size on an input keeps 16 bits, as the paper proposes.
_LARGE = 6.0
# Weights with one scale. The second is for widths that the first does not divide.
_BLOCKS = (64, 32)
_TRIAL_WIDTH = 64
# The relative error of a product: 4 bits give 0.1, a broken kernel 1 or more.
_CLOSE = 0.5


class BnbInt8Matrix:
    """8 bits a weight and a scale for each output.

    `parts` are the weights, one below the other, on whichever device, to be taken as `dtype`; what
    is held lies on `device`. Which inputs count as large is decided for all rows together, so a
    row's product depends a little on the rows beside it.
    """

    precision: Precision = "int8"

    def __init__(
        self, parts: Sequence[torch.Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        out, width = sum(map(len, parts)), parts[0].shape[1]
        self._functional = _bitsandbytes().functional
        self._values = torch.empty(out, width, dtype=torch.int8, device=device)
        self._highest = torch.empty(out, device=device)
        for rows, weight in formats.row_chunks(parts, dtype):
            self._values[rows], self._highest[rows], _ = self._functional.int8_vectorwise_quant(
                weight.to(device, torch.float16)
            )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out), in the format of `x`."""
        x = x.contiguous()  # the kernels take it to be so
        whole, highest, large = self._functional.int8_vectorwise_quant(
            x.to(torch.float16), threshold=_LARGE
        )
        y: torch.Tensor
        y, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(
            x, whole, self._values, highest, self._highest, large, None
        )
        return y

    def tensors(self) -> list[torch.Tensor]:
        """Return the values, and the highest weight of each output."""
        return [self._values, self._highest]


class BnbInt4Matrix:
    """4 bits a weight and a scale for each 64 of them along a row, or 32 in an odd width.

    `parts` and `device` as in `BnbInt8Matrix`.

    Raises:
        OptionError: the width is not a multiple of 32.

    """

    precision: Precision = "int4"

    def __init__(
        self, parts: Sequence[torch.Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        library = _bitsandbytes()
        shape = torch.Size((sum(map(len, parts)), parts[0].shape[1]))
        block = _block(shape[1])
        values = torch.empty(shape[0], shape[1] // 2, dtype=torch.uint8, device=device)
        highest = torch.empty(shape[0], shape[1] // block, device=device)
        for rows, weight in formats.row_chunks(parts, dtype):
            packed, state = library.functional.quantize_4bit(
                weight.to(device), blocksize=block, quant_type="nf4"
            )
            values[rows] = packed.view(-1, values.shape[1])
            highest[rows] = state.absmax.view(-1, highest.shape[1])
        state.absmax, state.shape = highest.view(-1), shape
        self._matmul = library.matmul_4bit
        self._values = values.view(-1, 1)
        self._state = state

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T, (rows, in) -> (rows, out), in the format of `x`."""
        y: torch.Tensor = self._matmul(x, self._values, quant_state=self._state)
        return y

    def tensors(self) -> list[torch.Tensor]:
        """Return the packed values, and the highest weight of each block."""
        return [self._values, self._state.absmax]


@cache
def obstacle(device: torch.device) -> str:
    """Return in one line why bitsandbytes is of no use on `device`, empty if it works."""
    weights = torch.linspace(-1, 1, _TRIAL_WIDTH**2).view(-1, _TRIAL_WIDTH)
    exact = weights @ weights.T
    try:
        for kind in (BnbInt8Matrix, BnbInt4Matrix):
            product = kind([weights], torch.float32, device)(weights.to(device)).cpu()
            if not (product - exact).norm() <= _CLOSE * exact.norm():
                return f"bitsandbytes multiplies wrongly on {device}: update it"
    except Exception as error:  # An unfit library raises whatever it likes; the caller tells it.
        return f"bitsandbytes does not work here: {first_line(error)}"
    return ""


def _block(width: int) -> int:
    found = next((block for block in _BLOCKS if width % block == 0), None)
    if found is None:
        raise OptionError(
            f"rows of {width} weights cannot be held in 4 bits: their number must be a multiple "
            f"of {_BLOCKS[-1]}; use int8"
        )
    return found


def _bitsandbytes() -> Any:
    # At import it complains of a kernel for CPUs that it would like to download.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes
