"""Heavy imports, such as torch, which the garbage collector need not look at ever again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import what stays for as long as the process lives.

    What there is at the end is never collected. Else each full collection would walk over half a
    million objects of torch and transformers, during which nothing else runs in the process, no
    answer either: for 0.3 s on two cores, and in the hub, without torch, for 0.05 s. Nor is
    anything collected meanwhile: walking over it as it grows takes half a second of the start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
