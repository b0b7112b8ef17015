"""Pressure stall information: the share of time that tasks wait for a resource."""

from __future__ import annotations

from pathlib import Path

from sovl_daemon.control.sources.source import Values, plausible
from sovl_daemon.limits import ControlGroups

SYSTEM = Path("/proc/pressure")
_RESOURCES = ("memory", "cpu", "io")


class Pressure:
    """Reads PSI of the whole machine, and of our own control group where version 2 is in use.

    For each of memory, cpu and io: `pressure.RESOURCE` and `pressure.RESOURCE_60` are the share of
    the last 10 and 60 seconds, in percent, in which some task waited; `pressure.RESOURCE_full` that
    in which all did. The same of our group as `group.pressure.RESOURCE` and so on. None where the
    kernel does not tell.
    """

    def __init__(self, system: Path = SYSTEM, groups: ControlGroups | None = None) -> None:
        self._system = system
        self._groups = groups or ControlGroups()

    def read(self) -> Values:
        """Read now."""
        values: dict[str, float | None] = {}
        own = self._groups.own("memory")
        group = next((each for each in own if (each / "memory.pressure").is_file()), None)
        for resource in _RESOURCES:
            values.update(_read(self._system / resource, f"pressure.{resource}"))
            if group is not None:
                path = group / f"{resource}.pressure"
                values.update(_read(path, f"group.pressure.{resource}"))
        return values


def _read(path: Path, name: str) -> Values:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""  # no PSI in this kernel, or it was not switched on
    rows = (line.split() for line in text.splitlines())  # some avg10=0.12 avg60=...
    pairs = ((row[0], *field.partition("=")) for row in rows if row for field in row[1:])
    shares = {(kind, key): plausible(value, high=100.0) for kind, key, _, value in pairs}
    return {
        name: shares.get(("some", "avg10")),
        f"{name}_60": shares.get(("some", "avg60")),
        f"{name}_full": shares.get(("full", "avg10")),
    }
