"""Work on the tensor thread as another thread waits for it."""

import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from sovl_daemon.engine.thread.priority import Priority
from sovl_daemon.engine.thread.tensor_thread import TensorThread

T = TypeVar("T")


class _Result(Generic[T]):
    def __init__(self) -> None:
        self.values: list[T] = []
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def result(self, value: T) -> None:
        self.values.append(value)

    def end(self, error: BaseException | None) -> None:
        self.error = error
        self.ended.set()


def wait_for(thread: TensorThread, steps: Iterator[T | None], priority: Priority) -> T:
    """Run `steps` on the tensor thread, wait, and return the last thing they yield.

    Raises:
        EngineError: the thread was stopped, or there was no memory.
        Exception: whatever a step raised.

    """
    result: _Result[T] = _Result()
    thread.submit(steps, result, priority)
    result.ended.wait()
    if result.error is not None:
        raise result.error
    return result.values[-1]
