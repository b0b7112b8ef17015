"""Where `sovl` begins and ends. Nothing of ours is imported before Ctrl-C is looked after."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in typing, which is one more import in which Ctrl-C had no answer yet
if TYPE_CHECKING:
    from typing import NoReturn

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    # Unless the shell has told us to ignore it, as it does for a job in the background.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _leave_at_once)
    _open_standard_streams()
    from bus.port import end_sockets
    from sovl_daemon.cli.app import app
    from sovl_daemon.cli.exits import finish

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = finish(app)
    if interruptible:
        signal.signal(signal.SIGINT, _leave_at_once)
    end_sockets()
    sys.exit(code)


def _leave_at_once(*_: object) -> NoReturn:
    # Raised in the middle of an import, KeyboardInterrupt would come out as anything at all.
    os._exit(_INTERRUPTED)


def _open_standard_streams() -> None:
    """Put the null device where a stream is closed, and let no character be unprintable.

    Else the next file to be opened got its number, and print wrote into a database.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - a descriptor
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
