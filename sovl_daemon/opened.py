"""Whether what was opened is still what its path leads to: others may remove or replace it."""

from __future__ import annotations

import os
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
        self._status = os.fstat(held)
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
