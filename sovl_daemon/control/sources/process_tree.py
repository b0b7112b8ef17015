"""Memory of a process with all its children: what no file backs, not what merely is resident."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from sovl_daemon.control.sources.source import Values

PROC = Path("/proc")
_LOOK_EVERY_S = 30.0


class ProcessTree:
    """Reads `NAME.anonymous_bytes`, `NAME.rss_bytes`, `NAME.swap_bytes`, `NAME.processes`.

    `roots` maps names to process ids, for example the hub's and the model host's. Anonymous memory
    is what the system has to find room for: resident memory also counts files such as
    memory-mapped weights, which it may drop at will. None for a process that has ended.

    Looking for children walks all processes of the machine, so it is done twice a minute: a
    new child counts that much later.
    """

    def __init__(
        self,
        roots: Mapping[str, int],
        proc: Path = PROC,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.roots = dict(roots)
        self._proc = proc
        self._clock = clock
        self._trees: dict[str, list[int]] = {}
        self._looked_s = -math.inf

    def watch(self, name: str, pid: int) -> None:
        """Read this process by this name from now on."""
        self.roots[name] = pid
        self._looked_s = -math.inf

    def read(self) -> Values:
        """Sum each tree."""
        now_s = self._clock()
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            self._trees = {name: tree_of(pid) for name, pid in self.roots.items()}
            self._looked_s = now_s
        values: dict[str, float | None] = {}
        for name, pids in self._trees.items():
            found = [status for pid in pids if (status := _status(self._proc, pid))]
            values |= {
                f"{name}.anonymous_bytes": _total(found, "RssAnon"),
                f"{name}.rss_bytes": _total(found, "VmRSS"),
                f"{name}.swap_bytes": _total(found, "VmSwap"),
                f"{name}.processes": float(len(found)) if found else None,
            }
        return values


def tree_of(root: int) -> list[int]:
    """A process and all its descendants; the root alone if it has ended, or is not to be seen."""
    try:
        children = psutil.Process(root).children(recursive=True)
    except (psutil.Error, OSError):
        return [root]
    return [root, *(child.pid for child in children)]


def exact_anonymous_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Anonymous memory of one process as its page tables say, swapped out included; or None.

    From `smaps_rollup`, for verifying an action. It takes milliseconds for a large process, so the
    samples use the kernel's own counters in `status`, which lag by some pages a core.
    """
    try:
        text = (proc / str(pid) / "smaps_rollup").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = _fields(text)
    return fields["Anonymous"] + fields.get("Swap", 0) if "Anonymous" in fields else None


def cores_of(pid: int, proc: Path = PROC) -> int | None:
    """How many cores the threads of a process may run on together; None for one that has ended."""
    cores: set[int] = set()
    with suppress(OSError):
        for thread in (proc / str(pid) / "task").iterdir():
            with suppress(ProcessLookupError):  # the thread has ended
                cores |= os.sched_getaffinity(int(thread.name))
    return len(cores) or None


def anonymous_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Memory of one process that no file backs, in bytes; None where the kernel does not tell."""
    return _status(proc, pid).get("RssAnon")


def _status(proc: Path, pid: int) -> dict[str, int]:
    try:
        return _fields((proc / str(pid) / "status").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def _fields(text: str) -> dict[str, int]:
    """The fields in kB, in bytes."""
    rows = (line.split() for line in text.splitlines())
    return {
        row[0].rstrip(":"): int(row[1]) * 1024
        for row in rows
        if row[2:] == ["kB"] and row[1].isdecimal()
    }


def _total(statuses: list[dict[str, int]], field: str) -> float | None:
    known = [status[field] for status in statuses if field in status]
    return float(sum(known)) if known else None
