"""The product with a frozen matrix, by the kernel and in the format that is fastest on this CPU.

That is measured, not read off its name. oneDNN is best for the many rows of a prompt where the CPU
multiplies the format, and emulates it where it does not; for the one row of a decoding step torch's
own 16-bit matrix-vector kernels can be twice as fast (measured on an AVX512 CPU, bfloat16: 41
against 87 us for 576 x 576).

A CPU without instructions for a 16-bit format takes two to five times as long for many rows in it
as in float32 (AVX512 without BF16), or twenty (AVX2). There the weights stay in 16 bits, half the
memory and half of what one row has to read, and many rows are multiplied by float32 copies of some
of them at a time.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from torch.nn import functional

# Near a tie the choice would follow the noise, and with it the rounding of the answers.
_CLEARLY_FASTER = 1.25
_TRIES = 8


@contextmanager
def native_kernels(enabled: bool) -> Iterator[None]:
    """Let torch's own matmuls replace oneDNN's inside the block; global, so one thread only."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and not enabled
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def native_is_faster(work: Callable[[], object]) -> bool:
    """Time `work` with either kind of kernel; True when torch's own are clearly faster."""

    def natively() -> None:
        with native_kernels(True):
            work()

    return is_faster(natively, work)


def is_faster(one: Callable[[], object], other: Callable[[], object]) -> bool:
    """Time both; True when `one` is clearly faster."""
    first, second = seconds_of(one, other)
    return second > _CLEARLY_FASTER * first


def seconds_of(*works: Callable[[], object]) -> list[float]:
    """Return how long each takes a core at best, tried in turn, after once that does not count.

    On one thread and by its own clock, which stands still while somebody else has the core.
    """

    def timed(work: Callable[[], object]) -> float:
        started = time.thread_time()
        work()
        return time.thread_time() - started

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for work in works:
            work()  # oneDNN compiles a kernel for each shape
        rounds = [[timed(work) for work in works] for _ in range(_TRIES)]
    finally:
        torch.set_num_threads(threads)
    return [min(each) for each in zip(*rounds, strict=True)]


_AT_ONCE = 1 << 18  # weights, whose float32 copies stay in the cache
_TRIAL = (1024, 576)  # weights that it is tried with; far smaller ones are not worth it
_TRIAL_ROWS = (128, 32, 16, 8)
_WORTH_IT = 1 << 16


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x @ weight.T, (rows, in) -> (rows, out), in the format of `x`.

    `weight` (out, in) is in that format or in whole numbers of 8 bits.
    """
    if (
        x.dtype != torch.float32
        and x.device.type == "cpu"
        and weight.numel() >= _WORTH_IT
        and len(x) >= _TRIAL_ROWS[-1]
        and len(x) >= widened_from(x.dtype)
    ):
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
    weight, min_rows = torch.ones(_TRIAL, dtype=dtype), sys.maxsize
    with torch.no_grad():
        for rows in _TRIAL_ROWS:
            x = torch.ones(rows, _TRIAL[1], dtype=dtype)
            if not is_faster(partial(widened, x, weight), partial(functional.linear, x, weight)):
                break
            min_rows = rows
    return min_rows


def is_emulated(dtype: torch.dtype) -> bool:
    """Return whether this CPU multiplies many rows faster in float32."""
    return dtype != torch.float32 and widened_from(dtype) < sys.maxsize
