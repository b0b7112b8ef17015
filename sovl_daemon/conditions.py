"""What the system refuses, told apart: what passes by itself or by a person's hand, and the rest.

One table for all: errno and SQLite's codes. A passing condition is said, and what it hindered is
tried again; it is never taken for damage, and nobody is told to restore a backup for it.
"""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path


class Condition(StrEnum):
    """Why the system refuses for now; the value is what a person reads."""

    FULL = "no space left"
    READ_ONLY = "read-only"
    PERMISSION = "permission denied"
    LOCKED = "in use by another program"
    DESCRIPTORS = "too many open files"
    MEMORY = "no memory, thread or process to be had"
    NETWORK = "no such address on this machine yet"
    UNREACHABLE = "the network, or who is asked there, does not answer"
    INPUT_OUTPUT = "input/output error"


_OF_ERRNO = {
    errno.ENOSPC: Condition.FULL,
    errno.EDQUOT: Condition.FULL,
    errno.EFBIG: Condition.FULL,  # the process's own limit on the size of files
    errno.EROFS: Condition.READ_ONLY,
    errno.EACCES: Condition.PERMISSION,
    errno.EPERM: Condition.PERMISSION,
    errno.EBUSY: Condition.LOCKED,
    errno.ETXTBSY: Condition.LOCKED,
    errno.ENOLCK: Condition.LOCKED,
    errno.EADDRINUSE: Condition.LOCKED,
    errno.EMFILE: Condition.DESCRIPTORS,
    errno.ENFILE: Condition.DESCRIPTORS,
    errno.EAGAIN: Condition.MEMORY,  # of fork and of pthread_create
    errno.ENOMEM: Condition.MEMORY,
    errno.EADDRNOTAVAIL: Condition.NETWORK,
    errno.ENETDOWN: Condition.UNREACHABLE,
    errno.ENETUNREACH: Condition.UNREACHABLE,
    errno.EHOSTDOWN: Condition.UNREACHABLE,
    errno.EHOSTUNREACH: Condition.UNREACHABLE,
    errno.ECONNREFUSED: Condition.UNREACHABLE,
    errno.ECONNRESET: Condition.UNREACHABLE,
    errno.ETIMEDOUT: Condition.UNREACHABLE,
    errno.EIO: Condition.INPUT_OUTPUT,
    errno.ESTALE: Condition.INPUT_OUTPUT,
}
_OF_SQLITE = {
    sqlite3.SQLITE_FULL: Condition.FULL,
    sqlite3.SQLITE_READONLY: Condition.READ_ONLY,
    sqlite3.SQLITE_PERM: Condition.PERMISSION,
    sqlite3.SQLITE_BUSY: Condition.LOCKED,
    sqlite3.SQLITE_LOCKED: Condition.LOCKED,
    sqlite3.SQLITE_NOMEM: Condition.MEMORY,
    # SQLite says this of a quota, too, and of a full disk where it cannot sync.
    sqlite3.SQLITE_IOERR: Condition.INPUT_OUTPUT,
    sqlite3.SQLITE_CANTOPEN: Condition.INPUT_OUTPUT,
}
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NO_THREAD = "can't start new thread"


def condition_of(error: BaseException) -> Condition | None:
    """Why the system refuses for now; None if that is not what happened.

    What an error was raised `from` is looked at too, and the first of a group.
    """
    for each in _chain(error):
        if isinstance(each, sqlite3.Error):
            return _OF_SQLITE.get(_primary(each))
        if isinstance(each, MemoryError):
            return Condition.MEMORY
        if isinstance(each, RuntimeError) and str(each) == _NO_THREAD:
            return Condition.MEMORY
        if isinstance(each, socket.gaierror):
            return Condition.UNREACHABLE
        # ZeroMQ's error and the model store's are no OSError, and have an errno all the same.
        number = getattr(each, "errno", None)
        if isinstance(number, int) and number in _OF_ERRNO:
            return _OF_ERRNO[number]
    return None


def database_refused(path: Path | str, error: sqlite3.Error, advice: str) -> tuple[str, Exception]:
    """Why a database cannot be used, and the error behind it; `advice` is for a damaged file.

    Where SQLite says only that it cannot open the file, the system is asked why.
    """
    cause: Exception = error
    if _primary(error) == sqlite3.SQLITE_CANTOPEN:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as refusal:
            cause = refusal
    said = cause.strerror if isinstance(cause, OSError) else str(cause)
    return f"{path}: {said}" + (f"; {advice}" if is_damage(error) else ""), cause


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite found the file itself broken."""
    return _primary(error) in _DAMAGE


def in_words(error: BaseException) -> str:
    """What the system said, as one line with the file that it was about."""
    if isinstance(error, BaseExceptionGroup):
        return in_words(error.exceptions[0])
    if isinstance(error, OSError) and error.strerror:
        files = [str(each) for each in (error.filename, error.filename2) if each is not None]
        return ": ".join([*files, error.strerror])
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
            continue
        yield found
        found = found.__cause__


def _primary(error: sqlite3.Error) -> int:
    """The lowest byte of the extended code; 0 where the library did not give one."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
