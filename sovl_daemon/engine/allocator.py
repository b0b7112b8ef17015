"""Giving freed memory back to the system."""

import ctypes


def return_free_memory() -> None:
    """Hand the pages of freed blocks back; the allocator would keep many of them for later.

    Without glibc there is no such call, and nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
