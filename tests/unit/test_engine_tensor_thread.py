import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sovl_daemon.engine.errors import (
    EngineOutOfMemoryError,
    EngineStoppedError,
    JobCancelledError,
)
from sovl_daemon.engine.thread.inbox import Inbox, call
from sovl_daemon.engine.thread.tensor_thread import JobQueue, Priority, TensorThread
from sovl_daemon.testing import PATIENCE_S


class Log:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.errors: list[BaseException | None] = []
        self.ended = threading.Event()

    def result(self, value: Any) -> None:
        self.results.append(value)

    def end(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self.ended.set()

    def wait(self) -> BaseException | None:
        assert self.ended.wait(PATIENCE_S)
        (error,) = self.errors
        return error


class Gate:
    """A job that holds the thread inside one step until it is opened."""

    def __init__(self, thread: TensorThread) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.log = Log()
        thread.submit(self._steps(), self.log, Priority.JUDGE)
        assert self.entered.wait(PATIENCE_S)

    def _steps(self) -> Iterator[None]:
        self.entered.set()
        assert self.opened.wait(PATIENCE_S)
        yield None


@pytest.fixture
def thread() -> Iterator[TensorThread]:
    made = TensorThread()
    yield made
    made.stop()


def steps(name: str, count: int, trace: list[str]) -> Iterator[str | None]:
    for _ in range(count):
        trace.append(name)
        yield name


def failing(error: BaseException) -> Iterator[str]:
    yield "once"
    raise error


def test_results_come_in_order_and_none_is_no_result(thread: TensorThread) -> None:
    log = Log()
    thread.submit(iter(["a", None, "b"]), log, Priority.CURIOSITY)
    assert log.wait() is None
    assert log.results == ["a", "b"]


def test_priorities_and_turns(thread: TensorThread) -> None:
    gate, trace, logs = Gate(thread), list[str](), list[Log]()
    for name, priority in [
        ("train", Priority.TRAINING),
        ("dream", Priority.CURIOSITY),
        ("talk", Priority.CONVERSATION),
        ("chat", Priority.CONVERSATION),
        ("late", Priority.CONVERSATION),
        ("judge", Priority.JUDGE),
    ]:
        logs.append(Log())
        thread.submit(steps(name, 2, trace), logs[-1], priority)
    gate.opened.set()
    assert [log.wait() for log in logs] == [None] * 6
    talking = ["talk", "chat", "late"] * 2
    assert trace == ["judge"] * 2 + talking + ["dream"] * 2 + ["train"] * 2


def test_a_more_important_job_interrupts_between_steps(thread: TensorThread) -> None:
    trace, night, judge = list[str](), Log(), Log()

    def training() -> Iterator[None]:
        for step in range(3):
            trace.append("train")
            if step == 0:
                thread.submit(steps("judge", 2, trace), judge, Priority.JUDGE)
            yield None

    thread.submit(training(), night, Priority.TRAINING)
    assert (night.wait(), judge.wait()) == (None, None)
    assert trace == ["train", "judge", "judge", "train", "train"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_reaches_its_own_job_only(thread: TensorThread, error: BaseException) -> None:
    gate, bad, good = Gate(thread), Log(), Log()
    thread.submit(failing(error), bad, Priority.CONVERSATION)
    thread.submit(iter("abc"), good, Priority.CONVERSATION)
    gate.opened.set()
    assert (bad.wait(), bad.results) == (error, ["once"])
    assert (good.wait(), good.results) == (None, ["a", "b", "c"])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")],
)
def test_out_of_memory_is_told_clearly(thread: TensorThread, error: BaseException) -> None:
    log = Log()
    thread.submit(failing(error), log, Priority.CONVERSATION)
    told = log.wait()
    assert isinstance(told, EngineOutOfMemoryError)
    assert "\n" not in str(told)


def test_a_real_allocation_failure_is_survived(thread: TensorThread) -> None:
    log = Log()

    def greedy() -> Iterator[torch.Tensor]:
        yield torch.empty(2**60, dtype=torch.uint8)

    thread.submit(greedy(), log, Priority.CONVERSATION)
    assert isinstance(log.wait(), EngineOutOfMemoryError)
    after = Log()
    thread.submit(iter("a"), after, Priority.CONVERSATION)
    assert after.wait() is None


def test_a_failed_job_leaves_no_tensors_behind(thread: TensorThread) -> None:
    log, held = Log(), list[weakref.ref[torch.Tensor]]()

    def explode() -> Iterator[None]:
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        yield None
        raise ValueError(tensor.shape)

    thread.submit(explode(), log, Priority.CONVERSATION)
    assert isinstance(log.wait(), ValueError)
    gc.collect()
    assert held[0]() is None


def test_cancelling_closes_the_steps_on_the_thread_at_once(thread: TensorThread) -> None:
    log, closed_by = Log(), list[str]()
    started = threading.Event()

    def endless() -> Iterator[None]:
        try:
            while True:
                started.set()
                yield None
        finally:
            closed_by.append(threading.current_thread().name)

    job = thread.submit(endless(), log, Priority.TRAINING)
    assert started.wait(PATIENCE_S)
    thread.cancel(job)
    assert isinstance(log.wait(), JobCancelledError)
    assert closed_by == ["tensors"]
    thread.cancel(job)


def test_cancelling_a_waiting_job_never_starts_it(thread: TensorThread) -> None:
    gate, log, trace = Gate(thread), Log(), list[str]()
    job = thread.submit(steps("never", 1, trace), log, Priority.TRAINING)
    thread.cancel(job)
    gate.opened.set()
    assert isinstance(log.wait(), JobCancelledError)
    assert trace == []


def test_cancelling_inside_the_last_step_ends_the_job_once(thread: TensorThread) -> None:
    log, jobs = Log(), list[Any]()
    submitted = threading.Event()

    def last() -> Iterator[None]:
        assert submitted.wait(PATIENCE_S)
        thread.cancel(jobs[0])
        return
        yield

    jobs.append(thread.submit(last(), log, Priority.JUDGE))
    submitted.set()
    assert log.wait() is None
    after = Log()
    thread.submit(iter("a"), after, Priority.TRAINING)
    assert after.wait() is None
    assert len(log.errors) == 1


def test_an_error_while_closing_is_told(thread: TensorThread) -> None:
    log, started = Log(), threading.Event()

    def stubborn() -> Iterator[None]:
        try:
            while True:
                started.set()
                yield None
        finally:
            raise ValueError("closing failed")

    job = thread.submit(stubborn(), log, Priority.JUDGE)
    assert started.wait(PATIENCE_S)
    thread.cancel(job)
    assert isinstance(log.wait(), JobCancelledError)
    after = Log()
    thread.submit(iter("a"), after, Priority.JUDGE)
    assert after.wait() is None


def test_a_hung_step_is_seen(thread: TensorThread) -> None:
    assert thread.stalled_for() == 0.0
    gate = Gate(thread)
    time.sleep(0.05)
    assert thread.stalled_for() >= 0.05
    gate.opened.set()
    gate.log.wait()
    deadline = time.monotonic() + PATIENCE_S
    while thread.stalled_for() > 0:
        assert time.monotonic() < deadline


def test_stop_while_busy_ends_every_job() -> None:
    thread = TensorThread()
    logs = [Log() for _ in range(3)]
    for log in logs:
        thread.submit(steps("x", 10**9, []), log, Priority.CONVERSATION)
    thread.stop()
    assert all(isinstance(log.wait(), EngineStoppedError) for log in logs)
    assert not thread._thread.is_alive()
    with pytest.raises(EngineStoppedError):
        thread.submit(iter("a"), Log(), Priority.JUDGE)
    thread.stop()


def test_a_step_may_stop_its_own_thread() -> None:
    thread, log = TensorThread(), Log()

    def stopping() -> Iterator[str]:
        thread.stop()
        yield "stopped"

    thread.submit(stopping(), log, Priority.JUDGE)
    assert isinstance(log.wait(), EngineStoppedError)
    thread._thread.join(PATIENCE_S)
    assert not thread._thread.is_alive()


async def test_call_returns_the_result_even_none(thread: TensorThread) -> None:
    name = await call(thread, lambda: threading.current_thread().name, Priority.JUDGE)
    assert name == "tensors"
    nothing: list[None] = [None]
    assert await call(thread, nothing.pop, Priority.JUDGE) is None  # type: ignore[func-returns-value]
    assert nothing == []
    with pytest.raises(ZeroDivisionError):
        await call(thread, lambda: 1 / 0, Priority.JUDGE)


def test_a_reader_whose_loop_is_gone_ends_the_job(thread: TensorThread) -> None:
    closed = threading.Event()

    def endless() -> Iterator[str]:
        try:
            while True:
                yield "x"
        finally:
            closed.set()

    async def abandon() -> None:
        inbox: Inbox[str] = Inbox()
        thread.submit(endless(), inbox, Priority.CONVERSATION)
        await anext(inbox)

    asyncio.run(abandon())
    assert closed.wait(PATIENCE_S)


def queue(**jobs: Priority) -> JobQueue[str]:
    made: JobQueue[str] = JobQueue()
    for job, priority in jobs.items():
        made.put(job, priority)
    return made


def taken(jobs: JobQueue[str], count: int) -> list[str | None]:
    return [jobs.peek() for _ in range(count)]


def test_jobs_of_one_priority_take_turns() -> None:
    jobs = queue(a=Priority.TRAINING, b=Priority.TRAINING, c=Priority.TRAINING)
    assert taken(jobs, 4) == ["a", "b", "c", "a"]
    jobs.remove("b")
    assert taken(jobs, 4) == ["c", "a", "c", "a"]


@pytest.mark.parametrize("order", [list(Priority), list(reversed(Priority))])
def test_the_highest_priority_runs_alone(order: list[Priority]) -> None:
    jobs = queue(**{priority.name: priority for priority in order})
    for priority in (
        Priority.JUDGE,
        Priority.CONVERSATION,
        Priority.CURIOSITY,
        Priority.TRAINING,
    ):
        assert taken(jobs, 2) == [priority.name, priority.name]
        jobs.remove(priority.name)
    assert jobs.peek() is None


def test_a_cancelled_job_comes_first_whatever_its_priority() -> None:
    jobs = queue(judge=Priority.JUDGE, night=Priority.TRAINING)
    assert jobs.cancel("night")
    assert jobs.peek() == "night"
    jobs.remove("night")
    assert jobs.peek() == "judge"
    assert not jobs.cancel("night")


def test_drain_empties_every_place() -> None:
    jobs = queue(a=Priority.JUDGE, b=Priority.JUDGE, c=Priority.TRAINING)
    jobs.peek()
    jobs.cancel("c")
    assert sorted(jobs.drain()) == ["a", "b", "c"]
    assert jobs.peek() is None
