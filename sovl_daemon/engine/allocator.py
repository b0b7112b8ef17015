"""Giving freed memory back to the system."""

import ctypes

import torch


def return_free_memory(device: torch.device | None = None) -> None:
    """Hand the pages of freed blocks back; the allocator would keep many of them for later.

    Those of a GPU too, if `device` is one. Without glibc there is no such call for the others, and
    nothing happens to them.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
