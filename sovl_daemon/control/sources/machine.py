"""The machine as psutil sees it."""

from __future__ import annotations

import warnings
from pathlib import Path

import psutil

from sovl_daemon.control.sources.source import Values, plausible
from sovl_daemon.limits import ControlGroups, memory


class Machine:
    """Reads `memory.percent`, `memory.available_bytes`, `swap.percent`, `cpu.percent`,
    `load.1m`, `load.per_cpu`, `disk.percent` and `disk.free_bytes`.

    Memory in use is what is not available, unrounded: caches that can be dropped are no use. In
    control groups with a limit, as of a container or a service, it is that of the machine or the
    group, whichever has less room.
    CPU is since the last reading; the first says None. `folder` names the disk.
    """  # noqa: D205 - the names are the summary

    def __init__(self, folder: Path, groups: ControlGroups | None = None) -> None:
        self._folder = folder
        self._groups = groups or ControlGroups()
        self._cpus = psutil.cpu_count() or 1
        self._times = 0.0, 0.0
        self._cpu = 0.0

    def read(self) -> Values:
        """Read now. What cannot be read is None."""
        return {
            **self.memory(),
            "swap.percent": self._swap_percent(),
            "cpu.percent": self._cpu_percent(),
            **self._load(),
            **self._disk(),
        }

    def memory(self) -> Values:
        """Read the two of memory alone."""
        found = memory(self._groups)
        if found is None:
            return {"memory.percent": None, "memory.available_bytes": None}
        return {"memory.percent": found.percent, "memory.available_bytes": float(found.available)}

    def _cpu_percent(self) -> float | None:
        """Of our own two readings: psutil keeps one for all callers, and another may have come."""
        try:
            times = psutil.cpu_times()
        except (OSError, ValueError, LookupError):
            return None
        # Guests' times are part of the others'.
        whole_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy_s = whole_s - times.idle - getattr(times, "iowait", 0.0)
        (whole_before_s, busy_before_s), self._times = self._times, (whole_s, busy_s)
        if not whole_before_s:
            return None
        if whole_s > whole_before_s:  # else no tick has passed, or the counters have gone back
            share = (busy_s - busy_before_s) / (whole_s - whole_before_s)
            self._cpu = min(100.0, max(0.0, 100.0 * share))
        return self._cpu

    def _disk(self) -> Values:
        try:
            usage = psutil.disk_usage(str(self._folder))
        except OSError:
            return {"disk.percent": None, "disk.free_bytes": None}
        percent = plausible(usage.percent, high=100.0)
        return {"disk.percent": percent, "disk.free_bytes": plausible(usage.free)}

    def _load(self) -> Values:
        try:
            load = plausible(psutil.getloadavg()[0])
        except OSError:
            load = None
        return {"load.1m": load, "load.per_cpu": None if load is None else load / self._cpus}

    def _swap_percent(self) -> float | None:
        """Swap in use, of the machine or the group; a machine without swap uses none."""
        room = self._groups.swap()
        try:
            with warnings.catch_warnings():  # of a kernel that does not count what it swaps
                warnings.simplefilter("ignore", RuntimeWarning)
                swap = psutil.swap_memory()
        except (OSError, ValueError, LookupError):
            return None if room is None else room.percent
        percent = 100.0 * swap.used / swap.total if swap.total else 0.0
        return plausible(max(percent, room.percent if room else 0.0), high=100.0)
