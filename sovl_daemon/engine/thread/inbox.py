"""What comes of work on the tensor thread, for an event loop or a thread that waits for it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from sovl_daemon.engine.thread.tensor_thread import Priority, TensorThread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class Inbox(Generic[T]):
    """Hears about one job and gives its results to the event loop that made the inbox.

    Iterate it with `async for`; it ends with the job, or raises the job's error. The tensor
    thread never waits for the reader.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()

    def result(self, value: T) -> None:
        """Take a result; raises RuntimeError, and so ends the job, if the event loop is closed."""
        self._loop.call_soon_threadsafe(self._items.put_nowait, value)

    def end(self, error: BaseException | None) -> None:
        """Take the news that the job is over."""
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, _End(error))
        except RuntimeError:
            # A closed loop has no reader left to tell.
            if not self._loop.is_closed():
                raise

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._items.get()
        if not isinstance(item, _End):
            return item
        if item.error is not None:
            raise item.error
        raise StopAsyncIteration


async def call(thread: TensorThread, function: Callable[[], T], priority: Priority) -> T:
    """Run `function` as one step on the tensor thread and return what it returns.

    Raises:
        EngineError: the thread was stopped, or there was no memory.
        Exception: whatever the function raised.

    """

    def one_step() -> Iterator[tuple[T]]:
        yield (function(),)  # a tuple, because a step that yields None has no result

    inbox: Inbox[tuple[T]] = Inbox()
    job = thread.submit(one_step(), inbox, priority)
    try:
        (value,) = [value async for (value,) in inbox]
        return value
    finally:
        thread.cancel(job)


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
