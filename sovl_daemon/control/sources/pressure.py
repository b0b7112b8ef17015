"""Pressure stall information: the share of time that tasks wait for a resource."""

from __future__ import annotations

from pathlib import Path

from sovl_daemon.control.sources.source import Values

SYSTEM = Path("/proc/pressure")
CGROUPS = Path("/sys/fs/cgroup")
_RESOURCES = ("memory", "cpu", "io")


class Pressure:
    """Reads PSI of the whole machine, and of our own control group where version 2 is in use.

    For each of memory, cpu and io: `pressure.RESOURCE` and `pressure.RESOURCE_60` are the share of
    the last 10 and 60 seconds, in percent, in which some task waited; `pressure.RESOURCE_full` that
    in which all did. The same of our group as `group.pressure.RESOURCE` and so on. None where the
    kernel does not tell.
    """

    def __init__(self, system: Path = SYSTEM, group: Path | None = None) -> None:
        self._system = system
        self._group = own_group() if group is None else group

    def read(self) -> Values:
        """Read now."""
        values: dict[str, float | None] = {}
        for resource in _RESOURCES:
            values.update(_read(self._system / resource, f"pressure.{resource}"))
            if self._group is not None:
                path = self._group / f"{resource}.pressure"
                values.update(_read(path, f"group.pressure.{resource}"))
        return values


def own_group(root: Path = CGROUPS, self_: Path = Path("/proc/self/cgroup")) -> Path | None:
    """The folder of this process' control group of version 2, if it has pressure files."""
    try:
        lines = self_.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    unified = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    if not unified:
        return None
    folder = root / unified[0]
    return folder if (folder / "memory.pressure").is_file() else None


def _read(path: Path, name: str) -> Values:
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        text = ""  # no PSI in this kernel, or it was not switched on
    shares = _shares(text)
    return {
        name: shares.get(("some", "avg10")),
        f"{name}_60": shares.get(("some", "avg60")),
        f"{name}_full": shares.get(("full", "avg10")),
    }


def _shares(text: str) -> dict[tuple[str, str], float]:
    """`some avg10=0.12 avg60=...` by kind and window."""
    rows = (line.split() for line in text.splitlines())
    pairs = ((row[0], *field.partition("=")) for row in rows if row for field in row[1:])
    return {(kind, key): float(value) for kind, key, _, value in pairs if key != "total"}
