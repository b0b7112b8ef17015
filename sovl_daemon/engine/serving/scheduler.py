"""Answers on the tensor thread: those of one priority advance together."""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from sovl_daemon.engine.errors import EngineStoppedError, JobCancelledError, settled
from sovl_daemon.engine.serving.batch import LanguageModel, Outcome, advance
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.token_sequence import Token, TokenSequence
from sovl_daemon.engine.thread.tensor_thread import JobListener, Priority, TensorThread


@dataclass(slots=True, eq=False)
class ScheduledSequence:
    """A sequence and who hears of its tokens."""

    sequence: TokenSequence
    listener: JobListener[Token]
    priority: Priority
    cancelled: bool = False
    ended: bool = False

    def end(self, error: BaseException | None, *, keep: bool) -> None:
        """Give the cache back, to be kept for later prompts or not, and tell the listener."""
        self.ended = True
        try:
            self.sequence.close(keep=keep)
        finally:
            self.listener.end(error)


class Scheduler:
    """Writes answers; started and cancelled from any thread, heard of on the tensor thread.

    Of each priority at most `max_concurrent` advance together, the others wait in order. It may be
    changed at any time: what advances already goes on.
    """

    def __init__(
        self, model: LanguageModel, caches: PrefixCache, thread: TensorThread, max_concurrent: int
    ) -> None:
        self.model = model
        self.caches = caches
        self.max_concurrent = max_concurrent
        self._thread = thread
        self._lanes = {priority: _Lane(self, thread, priority) for priority in Priority}

    @property
    def running(self) -> int:
        """How many answers advance now, of all priorities."""
        return sum(len(lane) for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        """How many wait for one of them to end."""
        return sum(lane.waiting for lane in self._lanes.values())

    @property
    def nbytes(self) -> int:
        """Bytes that the caches of running answers hold; from the tensor thread only."""
        return sum(lane.nbytes for lane in self._lanes.values())

    def start(
        self, sequence: TokenSequence, listener: JobListener[Token], priority: Priority
    ) -> ScheduledSequence:
        """Queue an answer.

        Raises:
            EngineStoppedError: the thread has been stopped.

        """
        answer = ScheduledSequence(sequence, listener, priority)
        self._lanes[priority].add(answer)
        return answer

    def cancel(self, answer: ScheduledSequence) -> None:
        """End an answer after the step that is running now; nothing happens if it is over."""
        if not answer.ended:
            answer.cancelled = True
            self._lanes[answer.priority].sweep()


class _Lane:
    """The answers of one priority; as long as there are any, their steps are one job.

    It hears of that job itself: of its end if the thread is stopped.
    """

    def __init__(self, owner: Scheduler, thread: TensorThread, priority: Priority) -> None:
        self._owner = owner
        self._thread = thread
        self._priority = priority
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[ScheduledSequence] = deque()
        # Changed on the tensor thread only.
        self._running: dict[TokenSequence, ScheduledSequence] = {}

    def __len__(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def nbytes(self) -> int:
        return sum(sequence.nbytes for sequence in self._running)

    def add(self, answer: ScheduledSequence) -> None:
        with self._lock:
            if not self._busy:
                self._thread.submit(self._steps(), self, self._priority)
            self._busy = True
            self._waiting.append(answer)

    def sweep(self) -> None:
        """Have the cancelled ones gone soon, though more important work keeps this lane waiting."""

        def sweeping() -> Iterator[None]:
            self._drop_cancelled()
            yield None

        try:
            self._thread.submit(sweeping(), self, Priority.JUDGE)
        except EngineStoppedError:
            return  # They are gone.

    def result(self, value: None) -> None:
        """Take nothing: a step has no result."""

    def end(self, error: BaseException | None) -> None:
        """End all answers with the job, if it is not merely out of work."""
        if error is None:
            return
        with self._lock:
            self._busy = False
            answers = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        for answer in answers:
            answer.end(error, keep=False)

    def _steps(self) -> Iterator[None]:
        while self._admit():
            outcomes = advance(self._owner.model, self._owner.caches, self._running)
            for sequence, outcome in outcomes.items():
                self._tell(sequence, outcome)
            yield None

    def _admit(self) -> bool:
        """Let go of the cancelled, take in those who wait; False if nobody is left."""
        self._drop_cancelled()
        with self._lock:
            while self._waiting and len(self._running) < self._owner.max_concurrent:
                answer = self._waiting.popleft()
                self._running[answer.sequence] = answer
            self._busy = bool(self._running)
            return self._busy

    def _drop_cancelled(self) -> None:
        with self._lock:
            known = [*self._running.values(), *self._waiting]
            cancelled = [answer for answer in known if answer.cancelled]
            for answer in cancelled:
                if self._running.pop(answer.sequence, None) is None:
                    self._waiting.remove(answer)
        for answer in cancelled:
            answer.end(JobCancelledError("cancelled"), keep=True)

    def _tell(self, sequence: TokenSequence, outcome: Outcome) -> None:
        answer = self._running[sequence]
        if isinstance(outcome, BaseException):
            self._end(answer, outcome, keep=False)
            return
        try:
            answer.listener.result(outcome)
        except Exception as error:  # Whatever it is, it is this one's, and the others go on.
            self._end(answer, settled(error), keep=True)
        else:
            if sequence.finish_reason is not None:
                self._end(answer, None, keep=True)

    def _end(self, answer: ScheduledSequence, error: BaseException | None, *, keep: bool) -> None:
        del self._running[answer.sequence]
        answer.end(error, keep=keep)
