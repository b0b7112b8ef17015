"""The one thread that does all tensor work, a step at a time, by priority."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar

from sovl_daemon.engine.errors import EngineStoppedError, JobCancelledError, settled

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Priority(IntEnum):
    """Lower numbers are served first; a lower priority runs only while no higher one has work."""

    JUDGE = 0
    CONVERSATION = 1
    CURIOSITY = 2
    TRAINING = 3


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

    def peek(self) -> T | None:
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


class JobListener(Protocol[T_contra]):
    """Hears about one job, on the tensor thread, so it must not block."""

    def result(self, value: T_contra) -> None:
        """Take what one step yielded, unless that was None; to raise ends the job."""

    def end(self, error: BaseException | None) -> None:
        """Learn that the job is over, and why if it is not simply done; once, must not raise."""


class TensorJob(Generic[T]):
    """An iterator of which every `next` is one step, and who hears about it."""

    def __init__(self, steps: Iterator[T | None], listener: JobListener[T]) -> None:
        self.steps = steps
        self.listener = listener
        self.cancelled = False


class TensorThread:
    """Runs one step at a time of the most important job.

    Jobs of one priority take turns.
    A job is submitted and cancelled from any thread; its steps run, its iterator is closed and its
    listener is told on this one. An error in a step ends that job alone.
    """

    def __init__(self) -> None:
        self._queue: JobQueue[TensorJob[Any]] = JobQueue()
        self._wakeup = threading.Condition()
        self._stopping = False
        self._step_started: float | None = None
        # A daemon, because a hung device call must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="tensors", daemon=True)
        self._thread.start()

    def submit(
        self, steps: Iterator[T | None], listener: JobListener[T], priority: Priority
    ) -> TensorJob[T]:
        """Queue a job.

        Raises:
            EngineStoppedError: the thread has been stopped.

        """
        job = TensorJob(steps, listener)
        with self._wakeup:
            if self._stopping:
                raise EngineStoppedError("the engine is stopped: start it again to go on")
            self._queue.put(job, priority)
            self._wakeup.notify()
        return job

    def cancel(self, job: TensorJob[Any]) -> None:
        """End a job after the step that is running now; nothing happens if it is over."""
        with self._wakeup:
            if self._queue.cancel(job):
                job.cancelled = True
                self._wakeup.notify()

    def stalled_for(self) -> float:
        """Return how many seconds the current step has been running, 0.0 when idle."""
        started = self._step_started
        return 0.0 if started is None else time.monotonic() - started

    def stop(self) -> None:
        """Finish the current step, end all jobs with EngineStoppedError, join the thread."""
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                try:
                    if job.cancelled:
                        raise JobCancelledError("cancelled")
                    value = next(job.steps)
                    if value is not None:
                        job.listener.result(value)
                except StopIteration:
                    self._finish(job, None)
                except BaseException as error:  # Whatever it is, it is this job's alone.
                    self._finish(job, error)
                self._step_started = None
                # Or what the last job holds would live on until the next one comes.
                value = None
                del job
        finally:
            self._abandon()

    def _abandon(self) -> None:
        with self._wakeup:
            self._stopping = True
            jobs = self._queue.drain()
        for job in jobs:
            _end(job, EngineStoppedError("the engine was stopped"))

    def _next_job(self) -> TensorJob[Any] | None:
        with self._wakeup:
            while not self._stopping:
                job = self._queue.peek()
                if job is not None:
                    self._step_started = time.monotonic()
                    return job
                self._wakeup.wait()
        return None

    def _finish(self, job: TensorJob[Any], error: BaseException | None) -> None:
        with self._wakeup:
            self._queue.remove(job)
        _end(job, error)


def _end(job: TensorJob[Any], error: BaseException | None) -> None:
    close_error = _close(job)
    error = error or close_error
    job.listener.end(error and settled(error))


def _close(job: TensorJob[Any]) -> BaseException | None:
    close = getattr(job.steps, "close", None)
    job.steps = iter(())
    try:
        if close is not None:
            close()
    except BaseException as error:  # As in a step: the thread must survive it.
        return error
    return None
