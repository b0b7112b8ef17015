"""How many CPU threads tensor work takes: a fixed number, or what is fastest at the time."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import psutil
import torch

from sovl_daemon.engine.thread.thread_count import ThreadCount
from sovl_daemon.limits import available_parallelism

Work = Literal["decoding", "reading", "judging", "training"]

_LOAD = Path("/proc/loadavg")
_LOOK_AGAIN_S = 1.0  # at what the control groups allow
_IDLE_OVER_S = 0.25


class Threads:
    """Sets the number of threads for each step; use it on the thread that computes.

    `fixed` holds for all work; 0 stands for what takes least time, by kind of work. Never more than
    may run at once.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed
        idle = IdleCores()
        self._counts = {work: ThreadCount(free_cores, idle) for work in get_args(Work)}
        self._max_count, self._looked = 1, float("-inf")

    @contextmanager
    def working(self, work: Work, rows: int) -> Iterator[None]:
        """Take a step over so many rows of tokens; what takes long is better a step a layer."""
        began = time.perf_counter()
        max_count = self._parallelism(began)
        if self.fixed:
            _set(min(self.fixed, max_count))
            yield
            return
        count = self._counts[work]
        _set(count.choose(began, max_count))
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        count.took(ended, rows, ended - began)

    def use(self, work: Work) -> None:
        """Let what comes have the number that such work takes at the moment."""
        max_count = self._parallelism(time.perf_counter())
        _set(min(self.fixed or self._counts[work].count or max_count, max_count))

    def now(self) -> dict[str, int]:
        """Return the number that each kind of work takes, as far as there was any."""
        return {work: each.count for work, each in self._counts.items() if each.count}

    def _parallelism(self, now: float) -> int:
        if now - self._looked >= _LOOK_AGAIN_S:
            self._max_count, self._looked = available_parallelism(), now
        return min(self._max_count, len(os.sched_getaffinity(0)))


def free_cores() -> int:
    """Return the cores of this machine on which nothing else runs at this moment, 1 at least."""
    cores = os.cpu_count() or 1
    try:
        running = int(_LOAD.read_text().split()[3].split("/")[0])  # this thread among them
    except (OSError, ValueError, IndexError):
        return cores  # a container may hide it
    return max(1, cores - running + 1)


class IdleCores:
    """Tells how many of the cores that this thread may use stood idle of late, on the average."""

    def __init__(self) -> None:
        self._at, self._idle_s = 0.0, 0.0
        self._idle = 0.0

    def __call__(self, now: float) -> float:
        """Return how many did over the last quarter of a second or more; 0 where nothing tells."""
        over = now - self._at
        if over >= _IDLE_OVER_S:
            before, self._at, self._idle_s = self._idle_s, now, _idle_s()
            # What passed since long ago, or before there was a first look, says nothing of now.
            self._idle = (self._idle_s - before) / over if over < 8 * _IDLE_OVER_S else 0.0
        return self._idle


def _idle_s() -> float:
    """Seconds since the machine began for which the cores of this thread waited for work."""
    try:
        times = psutil.cpu_times(percpu=True)
    except (OSError, ValueError, IndexError):
        return 0.0  # a container may hide it
    cores = os.sched_getaffinity(0)
    return sum(each.idle + each.iowait for core, each in enumerate(times) if core in cores)


def _set(count: int) -> None:
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
