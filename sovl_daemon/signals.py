"""Signals to a process, heard in its event loop for as long as it lives."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard(hear: Callable[[signal.Signals], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call `hear` in the running loop for each of these signals, and ignore them afterwards.

    A process that was told to stop ends by itself, and with its own code. Not the loop's own
    handlers: when those are taken away, or the interpreter ends, a signal ends the process.
    """
    loop = asyncio.get_running_loop()

    listening = True

    def tell(number: int, _: object) -> None:
        loop.call_soon_threadsafe(pass_on, signal.Signals(number))

    def pass_on(number: signal.Signals) -> None:
        if listening:
            hear(number)

    for each in numbers:
        signal.signal(each, tell)
    try:
        yield
    finally:
        ignore(*numbers)
        listening = False


def ignore(*numbers: signal.Signals) -> None:
    """Let these signals pass from now on: the process is about to end."""
    for each in numbers:
        signal.signal(each, signal.SIG_IGN)
