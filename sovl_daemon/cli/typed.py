"""Text from standard input, and never more of it than the daemon reads of one message."""

from __future__ import annotations

import os
import stat
import sys

import anyio

from bus.errors import BAD_ARGUMENT, CommandError
from bus.size import too_large

_CHUNK = 1 << 16
_STDIN = 0


async def read_all(max_bytes: int) -> str:
    """All of standard input. Raises CommandError as soon as there are more bytes than `max_bytes`.

    Asynchronous where it may have to wait, so that Ctrl-C ends it.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        try:
            if not stat.S_ISREG(os.fstat(_STDIN).st_mode):
                await anyio.wait_readable(_STDIN)
            chunk = os.read(_STDIN, _CHUNK)
        except OSError as error:
            raise CommandError(BAD_ARGUMENT, f"standard input: {error.strerror}") from None
        if not chunk:
            return _text(b"".join(chunks))
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise too_large("standard input", size, max_bytes, "or more")


def read_line(max_bytes: int) -> str:
    """The next line of standard input, empty at its end. Raises CommandError for a long one.

    The rest of that is passed over, so that what comes after is read as it was meant.
    """
    line = sys.stdin.buffer.readline(max_bytes + 1)
    if len(line) <= max_bytes:
        return _text(line)
    size = len(line)
    while line and not line.endswith(b"\n"):
        line = sys.stdin.buffer.readline(_CHUNK)
        size += len(line)
    raise too_large("the line", size, max_bytes)


def _text(data: bytes) -> str:
    try:
        return data.decode(sys.stdin.encoding if sys.stdin else "utf-8")
    except UnicodeDecodeError as error:
        problem = f"not {error.encoding.upper()} text at byte {error.start}"
        raise CommandError(BAD_ARGUMENT, f"standard input: {problem}") from None
