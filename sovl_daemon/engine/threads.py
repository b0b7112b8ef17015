"""How many CPU threads tensor work takes: a fixed number, or what is fastest at the time."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch

from sovl_daemon.engine.thread_count import ThreadCount
from sovl_daemon.limits import available_parallelism

Work = Literal["decoding", "reading", "judging", "training"]

_LOAD = Path("/proc/loadavg")
_LOOK_AGAIN_S = 1.0  # at what the control groups allow


class Threads:
    """Sets the number of threads for each step; use it on the thread that computes.

    `fixed` holds for all work; 0 stands for what takes least time, by kind of work. Never more than
    may run at once.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed
        self._counts = {work: ThreadCount(free_cores) for work in get_args(Work)}
        self._most, self._looked = 1, float("-inf")

    @contextmanager
    def working(self, work: Work, rows: int) -> Iterator[None]:
        """Take a step over so many rows of tokens."""
        began = time.perf_counter()
        most = self._parallelism(began)
        if self.fixed:
            _set(min(self.fixed, most))
            yield
            return
        count = self._counts[work]
        _set(count.choose(began, most))
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        count.took(ended, rows, ended - began)

    def now(self) -> dict[str, int]:
        """Return the number that each kind of work takes, as far as there was any."""
        return {work: each.count for work, each in self._counts.items() if each.count}

    def _parallelism(self, now: float) -> int:
        if now - self._looked >= _LOOK_AGAIN_S:
            self._most, self._looked = available_parallelism(), now
        return min(self._most, len(os.sched_getaffinity(0)))


def free_cores() -> int:
    """Return the cores of this machine on which nothing else runs at this moment, 1 at least."""
    cores = os.cpu_count() or 1
    try:
        running = int(_LOAD.read_text().split()[3].split("/")[0])  # this thread among them
    except (OSError, ValueError, IndexError):
        return cores  # a container may hide it
    return max(1, cores - running + 1)


def _set(count: int) -> None:
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
