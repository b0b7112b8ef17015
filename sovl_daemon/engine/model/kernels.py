"""Which of several kernels is the fastest on this CPU: that is measured, not read off its name.

oneDNN is best for the many rows of a prompt where the CPU multiplies the format, and emulates it
where it does not; for the one row of a decoding step torch's own 16-bit matrix-vector kernels can
be twice as fast (measured on an AVX512 CPU, bfloat16: 41 against 87 us for 576 x 576).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for work in works:
            work()  # oneDNN compiles a kernel for each shape
        rounds = [[_timed(work) for work in works] for _ in range(_TRIES)]
    finally:
        torch.set_num_threads(threads)
    return [min(each) for each in zip(*rounds, strict=True)]


def _timed(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started
