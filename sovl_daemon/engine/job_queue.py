"""Which job runs its next step: by priority, and in turn within one priority."""

from collections import deque
from typing import Any, Generic, TypeVar

from sovl_daemon.engine.priority import Priority

T = TypeVar("T")


class _Lane(Generic[T]):
    """The jobs of one priority: some take turns, the others wait in order of arrival."""

    def __init__(self) -> None:
        self.running: deque[T] = deque()
        self.waiting: deque[T] = deque()

    def take(self, max_concurrent: int) -> T | None:
        while self.waiting and len(self.running) < max_concurrent:
            self.running.append(self.waiting.popleft())
        if not self.running:
            return None
        self.running.rotate(-1)
        return self.running[-1]

    def remove(self, job: T) -> bool:
        for jobs in (self.running, self.waiting):
            if job in jobs:
                jobs.remove(job)
                return True
        return False


class JobQueue(Generic[T]):
    """Jobs by priority; cancelled ones first of all, so that what they hold is freed at once.

    At most `max_concurrent` jobs of one priority take turns. A job stays until it is removed.
    Not thread-safe.
    """

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._cancelled: deque[T] = deque()
        self._lanes = {priority: _Lane[T]() for priority in sorted(Priority)}

    def put(self, job: T, priority: Priority) -> None:
        """Add a job behind those of its priority."""
        self._lanes[priority].waiting.append(job)

    def take(self) -> T | None:
        """Return the job whose turn it is, None if there is none."""
        if self._cancelled:
            return self._cancelled[0]
        turns = (lane.take(self._max_concurrent) for lane in self._lanes.values())
        return next((job for job in turns if job is not None), None)

    def cancel(self, job: T) -> bool:
        """Put a job before all others; False if it is not in the queue any more."""
        known = self._remove_from_lanes(job)
        if known:
            self._cancelled.append(job)
        return known

    def remove(self, job: T) -> None:
        """Forget a job, wherever it is."""
        if not self._remove_from_lanes(job) and job in self._cancelled:
            self._cancelled.remove(job)

    def drain(self) -> list[T]:
        """Remove and return every job."""
        stores: list[deque[Any]] = [self._cancelled]
        for lane in self._lanes.values():
            stores += [lane.running, lane.waiting]
        jobs = [job for store in stores for job in store]
        for store in stores:
            store.clear()
        return jobs

    def _remove_from_lanes(self, job: T) -> bool:
        return any(lane.remove(job) for lane in self._lanes.values())
