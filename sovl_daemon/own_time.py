"""The time that a process had for itself: silence is judged by it, and by no other clock."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import anyio
import psutil

PROC = Path("/proc")
EVERY_S = 0.25
_TICKS = os.sysconf("SC_CLK_TCK")  # a second, of the kernel's coarse count


class _Thread(NamedTuple):
    """A thread's times so far, in seconds, and whether it has a core or waits for one."""

    ran_s: float = 0.0
    waited_s: float = 0.0
    runnable: bool = False


class OwnTime:
    """A clock in seconds that stands still while one of some processes waits for a core.

    A thread that waits for the interpreter's lock is starved when the lock's holder is, so of all
    threads the one that waited longest counts. Of a look that comes late nothing more is counted
    than twice the time between two: who was stopped, suspended or starved itself cannot tell what
    others did meanwhile. Where the kernel does not add up how long threads waited, one that is
    runnable counts as waiting for as long as it did not run.

    Args:
        pids: The processes at the moment of a look; one that has ended counts for nothing.
        every_s: Seconds between two looks, at least; in between it runs as other clocks do.
        proc: Where the kernel tells of processes.
        clock: Monotonic seconds.

    """

    def __init__(
        self,
        pids: Callable[[], Iterable[int]] = lambda: (os.getpid(),),
        *,
        every_s: float = EVERY_S,
        proc: Path = PROC,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pids = pids
        self._every_s = every_s
        self._proc = proc
        self._clock = clock
        self._own_s = 0.0
        self._looked_s = clock()
        self._threads = self._look()

    def __call__(self) -> float:
        """Seconds that the processes had for themselves since the clock was made."""
        passed_s = self._clock() - self._looked_s
        if passed_s < self._every_s:
            return self._own_s + passed_s
        before, self._threads = self._threads, self._look()
        self._looked_s += passed_s
        known = {pid for pid, _ in before}
        waited_s = max(
            (
                _waited_s(before.get((pid, thread), _Thread()), now, passed_s)
                for (pid, thread), now in self._threads.items()
                if pid in known
            ),
            default=0.0,
        )
        self._own_s += min(passed_s - waited_s, 2 * self._every_s)
        return self._own_s

    def _look(self) -> dict[tuple[int, int], _Thread]:
        found = {}
        for pid in self._pids():
            folder = self._proc / str(pid) / "task"
            try:
                threads = list(folder.iterdir())
            except OSError:  # it has ended, or is hidden from us: then other clocks must do
                continue
            for each in threads:
                if thread := _read(each):
                    found[pid, int(each.name)] = thread
        return found


@contextmanager
def move_on_after(
    seconds: float, own_time: Callable[[], float], *, shield: bool = False
) -> Iterator[anyio.CancelScope]:
    """As anyio's, but `seconds` are those of `own_time`."""
    loop = asyncio.get_running_loop()
    until_s = own_time() + seconds
    with anyio.CancelScope(shield=shield) as scope:
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if (left_s := until_s - own_time()) > 0:
                timer = loop.call_later(min(left_s, EVERY_S), look)
            else:
                scope.cancel()

        timer = loop.call_later(min(seconds, EVERY_S), look)
        try:
            yield scope
        finally:
            timer.cancel()


@contextmanager
def fail_after(
    seconds: float, own_time: Callable[[], float], *, shield: bool = False
) -> Iterator[anyio.CancelScope]:
    """As anyio's, but `seconds` are those of `own_time`. Raises TimeoutError."""
    with move_on_after(seconds, own_time, shield=shield) as scope:
        yield scope
    if scope.cancelled_caught:
        raise TimeoutError


def work_done(pid: int) -> tuple[int, int]:
    """How much a process has worked: tens of seconds of computing, and megabytes from or to disks.

    Coarse, so that to be merely alive is no work. Zeros for one that has ended, or where the
    kernel does not tell.
    """
    computed_s = moved = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        computed_s = sum(process.cpu_times()[:2])
        moved = sum(process.io_counters()[2:4])
    return int(computed_s / 10), int(moved / 1e6)


def _read(thread: Path) -> _Thread | None:
    try:
        fields = (thread / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # it has ended
        return None
    # Who reads of itself is running, and its wait is over.
    runnable = fields[0] == b"R" and int(thread.name) != threading.get_native_id()
    try:
        ran, waited, _ = map(int, (thread / "schedstat").read_bytes().split())
    except (OSError, ValueError):
        ran = waited = 0
    if not ran:  # a kernel that does not count writes zeros, or has no such file
        return _Thread((int(fields[11]) + int(fields[12])) / _TICKS, 0.0, runnable)
    return _Thread(ran / 1e9, waited / 1e9, runnable)


def _waited_s(before: _Thread, now: _Thread, passed_s: float) -> float:
    max_s = max(0.0, passed_s - (now.ran_s - before.ran_s))  # while it ran it did not wait
    waited_s = now.waited_s - before.waited_s
    if now.runnable and waited_s <= 0:  # the kernel adds a wait up when it is over
        return max_s
    return min(max(0.0, waited_s), max_s)
