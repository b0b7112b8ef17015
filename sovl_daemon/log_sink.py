"""Where log lines go: a stream or a rotated file that never raises and never makes one wait.

What cannot be written now is kept, up to a limit, and written later; what is beyond it is counted,
and the count is told as soon as something can be told again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_KEPT_BYTES = 1 << 20
_AT_ONCE = select.PIPE_BUF  # what a pipe takes without waiting once it says that it takes something
_AGAIN_S = (0.05, 5.0)  # pause before it is tried again: the first, and the longest


class LogTarget(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes) -> int:
        """Write what can be written without waiting; how much that was. Raises OSError."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class StreamTarget:
    """An open descriptor: a pipe, a terminal, a socket of journald, or a file."""

    def __init__(self, descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        self._socket = socket.socket(fileno=os.dup(descriptor)) if stat.S_ISSOCK(mode) else None
        self._descriptor = _without_waiting(descriptor, mode)

    def write(self, data: bytes) -> int:
        """Write as much as goes without waiting."""
        try:
            if self._socket is not None:
                return self._socket.send(data, socket.MSG_DONTWAIT)
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            return os.write(self._descriptor, data[:_AT_ONCE]) if poll.poll(0) else 0
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close our copies."""
        os.close(self._descriptor)
        if self._socket is not None:
            self._socket.close()


def _without_waiting(descriptor: int, mode: int) -> int:
    """The same pipe or terminal, opened by ourselves: made non-blocking, others' would be too."""
    if stat.S_ISFIFO(mode) or os.isatty(descriptor):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        with contextlib.suppress(OSError):  # not ours to open: then asking first has to do
            return os.open(f"/proc/self/fd/{descriptor}", flags)
    return os.dup(descriptor)


class FileTarget:
    """A file that is rotated by size, and made anew where somebody else moves or removes it."""

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._descriptor: int | None = None

    def write(self, data: bytes) -> int:
        """Append; in a new file if it would be too long in this one."""
        descriptor = self._descriptor
        if descriptor is None or self._is_elsewhere(descriptor):
            descriptor = self._open()
        status = os.fstat(descriptor)
        whole = stat.S_ISREG(status.st_mode)
        if whole and status.st_size and status.st_size + len(data) > self._max_bytes:
            self._rotate()
            descriptor = self._open()
        return os.write(descriptor, data)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_elsewhere(self, descriptor: int) -> bool:
        try:
            return not os.path.samestat(os.fstat(descriptor), self._path.stat())
        except OSError:
            return True

    def _open(self) -> int:
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not waiting: it may be a pipe.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o666)
        status = os.fstat(self._descriptor)
        used = stat.S_ISREG(status.st_mode) and status.st_size
        if used and os.pread(self._descriptor, 1, status.st_size - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # whoever wrote before was cut off
        return self._descriptor

    def _rotate(self) -> None:
        """Shift the old ones by one; the last is overwritten."""
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._backups + 1))]
        if not self._backups:
            self._path.unlink(missing_ok=True)
        for newer, older in reversed(list(itertools.pairwise(names))):
            if newer.exists():
                newer.replace(older)


class Sink:
    """Lines to one target, in order. Never raises, never waits; use it from any thread.

    `tell` is called with how many lines were lost and why, when lines can be written again.
    """

    def __init__(self, target: LogTarget, tell: Callable[[int, str], None]) -> None:
        self.lost = 0
        self.trouble = ""
        self._target = target
        self._tell = tell
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._turn = threading.RLock()  # what is told comes back as a line
        self._closed = threading.Event()
        self._trying: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Write a line now, or keep it for later."""
        with self._turn:
            if self._closed.is_set():
                return
            if self._kept and self._kept_bytes + len(line) > _KEPT_BYTES:
                self.lost += 1
                return
            self._kept.append(line)
            self._kept_bytes += len(line)
            self._push()
            if self._kept and self._trying is None:
                thread = threading.Thread(target=self._try_again, name="log sink", daemon=True)
                with contextlib.suppress(RuntimeError):  # none to be had: with the next line, then
                    thread.start()
                    self._trying = thread

    def close(self, patience_s: float = 0.5) -> None:
        """Write what is left, if that goes soon; what comes after it is lost."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._trying is not None:
            self._trying.join(patience_s)
        with self._turn:
            self._push()
            self._target.close()

    def _push(self) -> None:
        """Write what is kept, as far as it goes."""
        try:
            while self._kept:
                written = self._target.write(self._kept[0])
                if not written:
                    self.trouble = "nobody reads it"
                    return
                self._kept_bytes -= written
                if rest := self._kept.popleft()[written:]:
                    self._kept.appendleft(rest)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return
        lost, trouble = self.lost, self.trouble
        self.lost, self.trouble = 0, ""
        if lost:
            self._tell(lost, trouble)

    def _try_again(self) -> None:
        pause, longest = _AGAIN_S
        while not self._closed.wait(pause):
            with self._turn:
                before = self._kept_bytes
                self._push()
                if not self._kept:
                    self._trying = None
                    return
                pause = _AGAIN_S[0] if self._kept_bytes < before else min(2 * pause, longest)
