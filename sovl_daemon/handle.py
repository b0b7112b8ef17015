"""A native handle, such as a database: used by one thread at a time, closed after its last user."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Closable(Protocol):
    """What a handle is for."""

    def close(self) -> None:
        """Let go of it."""
        ...


class HandleClosed(Exception):
    """Its owner has closed it."""


class Handle:
    """Lends something to one thread at a time. Its owner alone closes it.

    Tasks wait for their turn without a thread. The lock holds also where a task no longer waits
    for its thread: a library in C that is closed under a call ends the process.
    """

    def __init__(self, thing: Closable) -> None:
        self._thing = thing
        self._turn = anyio.CapacityLimiter(1)
        self._lock = threading.Lock()
        self._closed = False

    async def use(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Do `work` in a thread, which must touch the thing only there; what began is finished.

        Raises:
            HandleClosed: it is closed.

        """
        alone = partial(self._alone, partial(work, *args))
        return await anyio.to_thread.run_sync(alone, limiter=self._turn)

    async def close(self) -> None:
        """Wait for who uses it, also when cancelled, and close it; once is enough."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close, limiter=self._turn)

    def _alone(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._closed:
                raise HandleClosed(f"the {type(self._thing).__name__} is closed")
            return work()

    def _close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._thing.close()
