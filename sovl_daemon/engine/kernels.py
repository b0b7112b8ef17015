"""Which matmul kernels a CPU uses for a single token.

oneDNN is best for the many rows of a prompt, but for the one row of a decoding step torch's own
16-bit matrix-vector kernels can be twice as fast (measured on an AVX512 CPU, bfloat16: 41 against
87 us for 576 x 576). Which one wins depends on the CPU, so it is measured.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# Near a tie the choice would follow the noise, and with it the rounding of the answers.
_CLEARLY_FASTER = 1.25
_TRIES = 5


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
    seconds = {native: _fastest(work, native) for native in (False, True)}
    return seconds[False] > _CLEARLY_FASTER * seconds[True]


def _fastest(work: Callable[[], object], native: bool) -> float:
    with native_kernels(native):
        return min(_timed(work) for _ in range(_TRIES))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
