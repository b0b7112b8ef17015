"""Where `sovl` begins and ends. Nothing of ours is imported before signals are looked after."""

from __future__ import annotations

import errno
import faulthandler
import io
import os
import signal
import sys

TYPE_CHECKING = False  # as in typing, which is one more import in which Ctrl-C had no answer yet
if TYPE_CHECKING:
    from typing import NoReturn

    from typing_extensions import Buffer

_STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    # Unless the shell has told us to ignore it, as it does for a job in the background.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, leave_at_once)
    signal.signal(signal.SIGTERM, leave_at_once)
    _open_standard_streams()
    faulthandler.enable()
    from bus.async_socket import end_sockets
    from sovl_daemon.cli.app import app
    from sovl_daemon.cli.exits import finish
    from sovl_daemon.signals import ignore

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = finish(app)
    ignore(signal.SIGINT, signal.SIGTERM)  # whose handlers the interpreter's end takes away
    end_sockets()
    sys.exit(code)


def leave_at_once(number: int, _: object) -> NoReturn:
    """Exit with the code that shells have for this signal, when there is nothing to tidy up yet."""
    # Raised in the middle of an import, KeyboardInterrupt would come out as anything at all.
    os._exit(128 + number)


class _StandardOutput(io.FileIO):
    """Standard output whose errors name it, as those of a file name the file."""

    def __init__(self, *, was_closed: bool) -> None:
        super().__init__(1, "w", closefd=False)
        self._was_closed = was_closed

    def write(self, data: Buffer) -> int:
        """Write some of it. Raises OSError, once also where it was closed from the beginning."""
        try:
            if self._was_closed:
                self._was_closed = False  # the rest goes to the null device that stands for it
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def _open_standard_streams() -> None:
    """Put the null device where a stream is closed, and let no character be unprintable.

    Else the next file to be opened got its number, and print wrote into a database.
    """
    was_closed = sys.stdout is None
    for number, name, mode in _STREAMS:
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - a descriptor
    unbuffered = isinstance(sys.stdout.buffer, io.RawIOBase)
    raw = _StandardOutput(was_closed=was_closed)
    sys.stdout = io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=bool(sys.stdout.line_buffering),
        write_through=unbuffered,
    )
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
