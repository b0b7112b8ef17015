"""What a control group may use of the machine's memory, in a container or under a service manager.

psutil tells of the whole machine alone, but the kernel kills by the limit of the group.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_UNLIMITED = 1 << 60  # version 1 writes a huge number for no limit
_CACHES = ("inactive_file", "active_file", "slab_reclaimable")  # dropped before anybody is killed


class Room(NamedTuple):
    """Bytes that a group uses without its droppable caches, and may use."""

    used: int
    limit: int

    @property
    def percent(self) -> float:
        """How much of it is in use."""
        return min(100.0, 100.0 * self.used / self.limit)

    @property
    def available(self) -> int:
        """Bytes that are left."""
        return max(0, self.limit - self.used)


class _Version(NamedTuple):
    """The files of one version of control groups."""

    used: str
    limits: tuple[str, ...]
    prefix: str  # of the lines in `memory.stat` that count the groups below too


_V1 = _Version("memory.usage_in_bytes", ("memory.limit_in_bytes",), "total_")
# Beyond `memory.high` nobody is killed, but everybody slows down to a crawl.
_V2 = _Version("memory.current", ("memory.max", "memory.high"), "")


class ControlGroups:
    """The groups of memory that a process is in, its own and those above; `proc` is its folder.

    `own` are its own one's folders, one of each version in use.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        own = _own(proc)
        self.own = tuple(folder for (_, folder), _ in own)
        self._folders = [(folder, version) for found, version in own for folder in _upwards(*found)]

    @staticmethod
    def room(folder: Path) -> Room | None:
        """One group's room; None where it has no limit."""
        return _room(folder, _V2 if (folder / _V2.used).exists() else _V1)

    def tightest(self) -> Room | None:
        """The group with the least room left by its share; None where nothing is limited."""
        rooms = (_room(folder, version) for folder, version in self._folders)
        return max((room for room in rooms if room), key=lambda room: room.percent, default=None)


def _own(proc: Path) -> list[tuple[tuple[Path, Path], _Version]]:
    """Where each version is mounted, and the folder of the process there."""
    mounts = _mounts(_lines(proc / "mountinfo"))
    found = []
    for line in _lines(proc / "cgroup"):
        _, controllers, path = line.split(":", 2)
        version = _V2 if not controllers else _V1 if "memory" in controllers.split(",") else None
        if version is not None and version in mounts:
            root, mount = mounts[version]
            inside = path.removeprefix(root.rstrip("/")).lstrip("/")
            # In a container the group of a process may not be under the mount, which is its own.
            folder = mount / inside if path.startswith(root) else mount
            found.append(((mount, folder), version))
    return found


def _mounts(lines: Iterable[str]) -> dict[_Version, tuple[str, Path]]:
    """Of each version, which group is mounted and where; see proc_pid_mountinfo(5)."""
    mounts: dict[_Version, tuple[str, Path]] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            mounts[_V2] = root, Path(mount)
        elif kind == "cgroup" and "memory" in options.split(","):
            mounts[_V1] = root, Path(mount)
    return mounts


def _upwards(mount: Path, folder: Path) -> Iterable[Path]:
    while folder.is_relative_to(mount):
        yield folder
        folder = folder.parent


def _room(folder: Path, version: _Version) -> Room | None:
    limits = [number for name in version.limits if (number := _number(folder / name)) is not None]
    used, limit = _number(folder / version.used), min(limits, default=_UNLIMITED)
    if used is None or not 0 < limit < _UNLIMITED:
        return None
    names = [version.prefix + name for name in _CACHES]
    rows = (line.split() for line in _lines(folder / "memory.stat"))
    caches = sum(int(row[1]) for row in rows if row[0] in names)
    return Room(max(0, used - caches), limit)


def _number(file: Path) -> int | None:
    """A file's number; None for `max`, and for a file that is not there."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    return []
