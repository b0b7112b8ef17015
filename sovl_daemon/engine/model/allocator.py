"""Memory that was freed, given back to the system: of the C library's heap, and of a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import torch


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`; `fordblks` are the bytes in free chunks of all arenas."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    )
    fordblks: int


class _Heap:
    """The heap of this process. Without glibc's calls nothing is given back, or can be."""

    def __init__(self) -> None:
        library: Any = ctypes.CDLL(None)
        self._trim = getattr(library, "malloc_trim", None)
        self._info = getattr(library, "mallinfo2", None)
        if self._info is not None:
            self._info.restype = _Mallinfo2
        self._given_back = 0

    def give_back(self) -> None:
        if self._trim is not None:
            self._trim(0)
            self._given_back = self._free()

    def to_give_back(self) -> int:
        return max(0, self._free() - self._given_back) if self._trim is not None else 0

    def _free(self) -> int:
        return int(self._info().fordblks) if self._info is not None else 0


_heap = _Heap()


def return_free_memory(device: torch.device | None = None) -> None:
    """Hand the pages of freed blocks back; the allocator would keep many of them for later.

    Those of a GPU too, if `device` is one.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.empty_cache()
    _heap.give_back()


def returnable_bytes() -> int:
    """Bytes of the heap that would be given back now, at least.

    What lies free, less what lay there right after the last time: pages that were given back still
    count as free, and cannot be given back twice. What a collection would free inside Python's own
    arenas is not counted.
    """
    return _heap.to_give_back()
