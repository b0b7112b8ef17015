"""Whether what was opened is still what its path leads to: others may remove or replace it."""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path


class Opened:
    """A file, folder or socket as it was found when it was opened here.

    It is held, without being read, so that nothing that is made later can pass for it: the number
    of an inode that is gone is given to the next one. Raises OSError where there is nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
        self._held, self._status = held, os.fstat(held)
        self.close = weakref.finalize(self, os.close, held)

    def fault(self) -> str:
        """What has become of it in one word, `removed` or `replaced`; empty while it is there.

        Empty as well for what cannot be reached just now, as on a network file system.
        """
        try:
            there = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return "removed"
        except OSError:
            return ""
        return "" if os.path.samestat(there, self._status) else "replaced"


class Mapped(Opened):
    """A file that is mapped into memory: it is ours whatever its path leads to, until it changes.

    One that is still being written counts as it was, so that it is not loaded by halves.
    """

    _QUIET_S = 3.0

    def fault(self) -> str:
        """`changed`, if somebody wrote to it where it is; else empty."""
        now = os.fstat(self._held)
        same = (now.st_size, now.st_mtime_ns) == (self._status.st_size, self._status.st_mtime_ns)
        return "" if same or time.time() - now.st_mtime < self._QUIET_S else "changed"


def opened_database(path: Path) -> list[Opened]:
    """Return an SQLite database that was just opened, with the files it has beside it now."""
    beside = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    return [Opened(path), *(Opened(each) for each in beside if each.exists())]
