"""The machine as psutil sees it."""

from __future__ import annotations

from pathlib import Path

import psutil

from sovl_daemon.control.sources.source import Values


class Machine:
    """Reads `memory.percent`, `memory.available_bytes`, `swap.percent`, `cpu.percent`,
    `load.per_cpu`, `disk.percent` and `disk.free_bytes`.

    Memory in use is what is not available, unrounded: caches that can be dropped are no use.
    CPU is since the last reading; the first says None. `folder` names the disk.
    """  # noqa: D205 - the names are the summary

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cpus = psutil.cpu_count() or 1
        self._has_read = False

    def read(self) -> Values:
        """Read now. A disk that cannot be read gives None."""
        memory = psutil.virtual_memory()
        cpu = psutil.cpu_percent()
        first, self._has_read = not self._has_read, True
        return {
            "memory.percent": 100.0 * (1.0 - memory.available / memory.total),
            "memory.available_bytes": float(memory.available),
            "swap.percent": _swap_percent(),
            "cpu.percent": None if first else min(100.0, cpu),
            "load.per_cpu": psutil.getloadavg()[0] / self._cpus,
            **self._disk(),
        }

    def _disk(self) -> Values:
        try:
            usage = psutil.disk_usage(str(self._folder))
        except OSError:
            return {"disk.percent": None, "disk.free_bytes": None}
        return {"disk.percent": usage.percent, "disk.free_bytes": float(usage.free)}


def _swap_percent() -> float:
    """Swap in use; a machine without swap uses none."""
    swap = psutil.swap_memory()
    return 100.0 * swap.used / swap.total if swap.total else 0.0
