"""The cores that this process keeps to, so that others have the rest.

Unlike a niceness, which nobody but root can lower again, this can always be taken back.
"""

import os
from pathlib import Path

import torch

_GIVEN = frozenset(os.sched_getaffinity(0))  # nothing here has narrowed them yet
_THREADS = Path("/proc/self/task")


def keep_to_cores(count: int, threads: int) -> None:
    """Let all threads of this process run on `count` cores, 0 for all that it was given.

    Tensor work of this thread then takes `threads` threads, or as many as there are cores: more
    would wait for each other.
    """
    cores = frozenset(sorted(_GIVEN)[: count or None])
    while _move_threads(cores):  # a thread that was begun meanwhile may be where its maker was
        pass
    torch.set_num_threads(min(threads, len(cores)))


def _move_threads(cores: frozenset[int]) -> bool:
    """Move all threads; whether there was any to move."""
    moved = False
    for each in _THREADS.iterdir():
        try:
            if os.sched_getaffinity(int(each.name)) != cores:
                os.sched_setaffinity(int(each.name), cores)
                moved = True
        except ProcessLookupError:
            pass  # it has ended
    return moved
