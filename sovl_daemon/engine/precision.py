"""Which number format the weights are held in."""

from dataclasses import dataclass
from typing import Literal

import torch

from sovl_daemon.engine.errors import OptionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HALF_DTYPES = (torch.bfloat16, torch.float16)

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
        return _choose_on_cpu(stored, torch.backends.cpu.get_cpu_capability())
    return _choose_on_accelerator(stored, device)


def unquantised(dtype: torch.dtype) -> Precision:
    """Return the precision of a model whose weights are held in `dtype` as they are."""
    return "fp32" if dtype == torch.float32 else "fp16"


def _choose_on_cpu(stored: torch.dtype, capability: str) -> DtypeChoice:
    # Measured on an AVX512 CPU: over a prompt, a float16 matmul is 9 times slower than bfloat16
    # (oneDNN has no kernel for it) and float32 2 times; for one token both 16-bit formats read
    # half the bytes of float32. Without AVX512 bfloat16 has no fast matmul either.
    if capability != "AVX512":
        return DtypeChoice(torch.float32, f"a {capability} CPU has no fast 16-bit matmul")
    if stored == torch.bfloat16:
        return DtypeChoice(torch.bfloat16, "as stored")
    if stored == torch.float16:
        return DtypeChoice(torch.bfloat16, "float16 prompts are 9 times slower than bfloat16 here")
    return DtypeChoice(torch.bfloat16, f"half the memory traffic of the stored {stored}")


def _choose_on_accelerator(stored: torch.dtype, device: torch.device) -> DtypeChoice:
    # A stored bfloat16 stays so even where it is emulated: as float16 it could overflow.
    if stored in HALF_DTYPES:
        return DtypeChoice(stored, "as stored")
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return DtypeChoice(torch.float16, "half the memory of float32; this GPU has no bfloat16")
    return DtypeChoice(torch.bfloat16, "half the memory of float32")
