"""Which number format the weights are held in."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.model.product import native_kernels, product, seconds_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HALF_DTYPES = (torch.bfloat16, torch.float16)

# What formats are tried with: weights, and a prompt with an answer of usual lengths.
_TRIAL, _TRIAL_MATRICES = (1536, 576), 16
_PROMPT_ROWS, _ANSWER_TOKENS = 128, 64
# So much longer it may take than in float32, of which also fewer weights are in the cache. Far from
# a tie: most CPUs take as long for a token in either.
_WORTH_TWICE_THE_MEMORY = 1.5

# "fp16" is whichever 16-bit format the model was loaded in.
Precision = Literal["fp32", "fp16", "int8", "int4"]
# "offloaded" matrices stay in the model's file, in the format that it has them in.
Holding = Precision | Literal["offloaded"]


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    """A format and, in one line, why it was taken."""

    dtype: torch.dtype
    reason: str


def choose_dtype(asked: str, stored: torch.dtype, device: torch.device) -> DtypeChoice:
    """Pick the format to compute in: what was asked for, else the best 16-bit one for the device.

    Raises:
        OptionError: `asked` is neither "auto" nor a known format.

    """
    if asked in DTYPES:
        return DtypeChoice(DTYPES[asked], "as configured")
    if asked != "auto":
        raise OptionError(f"dtype {asked!r} is unknown: use auto, {', '.join(DTYPES)}")
    if device.type == "cpu":
        # Not float16, whatever is stored: as hidden states it overflows.
        if _times_as_long(torch.bfloat16, torch.float32) > _WORTH_TWICE_THE_MEMORY:
            return DtypeChoice(torch.float32, "bfloat16 was tried and is slower here")
        if stored == torch.bfloat16:
            return DtypeChoice(torch.bfloat16, "as stored")
        reason = f"tried, fast here, and takes the place of {stored} well"
        return DtypeChoice(torch.bfloat16, reason)
    # A stored bfloat16 stays so even where it is emulated: as float16 it could overflow.
    if stored in HALF_DTYPES:
        return DtypeChoice(stored, "as stored")
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return DtypeChoice(torch.float16, "half the memory of float32; this GPU has no bfloat16")
    return DtypeChoice(torch.bfloat16, "half the memory of float32")


def unquantised(dtype: torch.dtype) -> Precision:
    """Return the precision of a model whose weights are held in `dtype` as they are."""
    return "fp32" if dtype == torch.float32 else "fp16"


@cache
def _times_as_long(dtype: torch.dtype, other: torch.dtype) -> float:
    """Return how many times as long a short prompt and its answer take in one format.

    Measured once, in some 100 ms, in turn: what else the machine does meanwhile hits both.
    """
    times = seconds_of(*_works(dtype), *_works(other))
    one, two = (
        reading * _TRIAL_MATRICES + _ANSWER_TOKENS * min(writing)
        for reading, *writing in (times[:3], times[3:])
    )
    return one / two


def _works(dtype: torch.dtype) -> list[Callable[[], object]]:
    """Read a prompt by one of some weights, and write a token by all, with either kind of kernel.

    The weights are more than a core's cache holds, as a model's are.
    """
    weights = [torch.ones(_TRIAL, dtype=dtype) for _ in range(_TRIAL_MATRICES)]
    token, prompt = (torch.ones(rows, _TRIAL[1], dtype=dtype) for rows in (1, _PROMPT_ROWS))

    def write(native: bool) -> None:
        with torch.inference_mode(), native_kernels(native):
            for weight in weights:
                product(token, weight)

    return [partial(product, prompt, weights[0]), partial(write, False), partial(write, True)]
