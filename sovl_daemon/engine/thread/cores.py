"""The cores that this process keeps to, so that others have the rest.

Unlike a niceness, which nobody but root can lower again, this can always be taken back.
"""

import os
from pathlib import Path

from sovl_daemon.engine.errors import OptionError

_THREADS = Path("/proc/self/task")
_ALL = frozenset(range(4096))  # the system takes those of them that there are


def _allowed() -> frozenset[int]:
    """The cores that there are now for whoever wants all: those of the control group."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, _ALL)
    except OSError:  # a container may forbid it
        return frozenset(before)
    allowed = frozenset(os.sched_getaffinity(0))
    if allowed != before:
        os.sched_setaffinity(0, before)
    return allowed


_GIVEN = frozenset(os.sched_getaffinity(0))  # nothing here has narrowed them yet
_CHOSEN = _allowed() != _GIVEN  # by somebody else, as with taskset; else they may change


def keep_to_cores(count: int) -> None:
    """Let all threads of this process run on `count` cores, 0 for all that it was given.

    Raises:
        OptionError: the system gives none of them any more.

    """
    allowed = _allowed()
    given = (_GIVEN & allowed or allowed) if _CHOSEN else allowed
    cores = frozenset(sorted(given)[:count]) if count else _GIVEN if _CHOSEN else _ALL
    moved: set[int] = set()
    while begun := {int(each.name) for each in _THREADS.iterdir()} - moved:
        for thread in begun:  # those of the next round are where their maker was when it made them
            _move(thread, cores)
        moved |= begun


def _move(thread: int, cores: frozenset[int]) -> None:
    try:
        os.sched_setaffinity(thread, cores)
    except ProcessLookupError:
        pass  # it has ended
    except OSError as error:
        raise OptionError(f"cannot keep to {len(cores)} cores: {error.strerror}") from error
