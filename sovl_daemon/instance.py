"""One daemon for one runtime and one state directory, also where others remove them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

import filelock

from config import Paths
from sovl_daemon.opened import Opened

_LOCK = "hub.lock"


class AlreadyRunning(Exception):
    """Another hub holds the lock of this runtime directory, or writes to this state directory."""


class Displaced(Exception):
    """The daemon lost what it lives from; the message says what and what to do."""


class Instance:
    """Holds a lock in each of the two directories.

    Binding a live socket path would steal it silently: so the locks are taken first. There are
    two, so that one directory that is removed lets no second daemon begin.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._locks = [
            _Lock(paths.runtime_dir, "talk to it with: sovl console"),
            _Lock(paths.state_dir, "it may have another bus.runtime_dir or XDG_RUNTIME_DIR"),
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Take the locks. Raises AlreadyRunning."""
        with ExitStack() as stack:
            for lock in self._locks:
                lock.take()
                stack.callback(lock.release)
            self._stack = stack.pop_all()
        self._state = Opened(self._paths.state_dir)
        return self

    def __exit__(self, *_: object) -> None:
        self._state.close()
        self._stack.close()

    def check(self) -> bool:
        """Whether all is as it was. Raises Displaced where the state directory is another one."""
        if fault := self._state.fault():
            raise Displaced(
                f"the state directory {self._paths.state_dir} was {fault} while the daemon ran; "
                "put it back, or begin anew, and then: sovl run"
            )
        return all(lock.held for lock in self._locks)

    def renew(self) -> None:
        """Make the runtime directory, and take the locks that were lost.

        Raises Displaced when another daemon has, and ConfigError or OSError when it cannot be done.
        """
        self._paths.ensure_runtime()
        for lock in self._locks:
            if not lock.held:
                lock.release()
                try:
                    lock.take()
                except AlreadyRunning as error:
                    raise Displaced(f"the lock of this daemon was removed, and {error}") from None


class _Lock:
    """A lock file, and whether its path still leads to it."""

    def __init__(self, folder: Path, advice: str) -> None:
        self._folder = folder
        self._advice = advice
        self._lock = filelock.FileLock(folder / _LOCK, timeout=0)

    def take(self) -> None:
        """Raises AlreadyRunning."""
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise AlreadyRunning(
                f"a SOVL daemon is already running in {self._folder}; {self._advice}"
            ) from None
        self._file = Opened(self._folder / _LOCK)

    @property
    def held(self) -> bool:
        """Whether another daemon would find it taken."""
        return not self._file.fault()

    def release(self) -> None:
        self._file.close()
        self._lock.release()
