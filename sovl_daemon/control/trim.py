"""Clearing caches, the cheapest action: collect garbage and give free heap back to the system."""

from __future__ import annotations

import ctypes
import gc
import os

from sovl_daemon.control.action import Effect
from sovl_daemon.control.sources.process_tree import exact_anonymous_bytes

LEAST_BYTES = 4 << 20
"""Below this much to gain it is not worth a walk through the heap."""


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`; `fordblks` are the bytes in free chunks of all arenas."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    )
    fordblks: int


class Trim:
    """`gc.collect` and `malloc_trim` of this process. It leaves no setting, so nothing is undone.

    What can be gained is what lies free in the heap, less what lay there right after the last
    trim: pages that were given back still count as free, and cannot be given back twice.
    """

    name = "clear_caches"
    target = ""
    time_to_live_s = None

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._can = hasattr(self._libc, "malloc_trim") and hasattr(self._libc, "mallinfo2")
        if self._can:
            self._libc.mallinfo2.restype = _Mallinfo2
        self._given_back = 0

    async def refuse(self) -> str | None:
        """Refuse where the C library cannot, or where hardly anything would be gained."""
        if not self._can:
            return "the C library here has no malloc_trim"
        if exact_anonymous_bytes(os.getpid()) is None:
            return "the kernel does not tell what this process holds, so nothing could be verified"
        gain = self.gain()
        return f"only {gain >> 10} KiB lie free in the heap" if gain < LEAST_BYTES else None

    async def predict(self) -> Effect:
        """What lies free in the heap."""
        return Effect(float(max(1, self.gain())))

    async def current(self) -> str:
        """There is no setting."""
        return ""

    async def measure(self) -> float:
        """Anonymous memory of this process, in bytes, as the kernel counts it."""
        return float(exact_anonymous_bytes(os.getpid()) or 0)

    async def apply(self) -> None:
        """Collect and trim."""
        gc.collect()
        if self._can:
            self._libc.malloc_trim(0)
            self._given_back = self._free()

    async def verify(self) -> str | None:
        """Nothing else can be wrong."""
        return None

    async def stays(self) -> str | None:
        """There is no setting."""
        return None

    async def revert(self, before: str) -> None:
        """Nothing was set."""

    def gain(self) -> int:
        """Bytes that would be given back now, at least; 0 where nothing could."""
        # What a collection frees inside Python's own arenas is not counted: a lower bound.
        return max(0, self._free() - self._given_back) if self._can else 0

    def _free(self) -> int:
        return int(self._libc.mallinfo2().fordblks)
