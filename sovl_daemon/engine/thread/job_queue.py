"""Which job runs its next step: by priority, and in turn within one priority."""

from collections import deque
from typing import Generic, TypeVar

from sovl_daemon.engine.thread.priority import Priority

T = TypeVar("T")


class JobQueue(Generic[T]):
    """Jobs by priority; cancelled ones first of all, so that what they hold is freed at once.

    A job stays until it is removed. Not thread-safe.
    """

    def __init__(self) -> None:
        self._cancelled: deque[T] = deque()
        self._lanes: dict[Priority, deque[T]] = {priority: deque() for priority in sorted(Priority)}

    def put(self, job: T, priority: Priority) -> None:
        """Add a job behind those of its priority."""
        self._lanes[priority].append(job)

    def take(self) -> T | None:
        """Return the job whose turn it is, None if there is none."""
        if self._cancelled:
            return self._cancelled[0]
        lane = next(filter(None, self._lanes.values()), None)
        if lane is None:
            return None
        lane.rotate(-1)
        return lane[-1]

    def cancel(self, job: T) -> bool:
        """Put a job before all others; False if it is not in the queue any more."""
        known = any(job in lane for lane in self._lanes.values())
        if known:
            self.remove(job)
            self._cancelled.append(job)
        return known

    def remove(self, job: T) -> None:
        """Forget a job, wherever it is."""
        for jobs in (self._cancelled, *self._lanes.values()):
            if job in jobs:
                jobs.remove(job)

    def drain(self) -> list[T]:
        """Remove and return every job."""
        stores = (self._cancelled, *self._lanes.values())
        jobs = [job for store in stores for job in store]
        for store in stores:
            store.clear()
        return jobs
