"""What control groups leave of the machine, in a container or under a service manager.

The kernel holds a process to the limits of its own group and of all above it, whatever the machine
has beside. Of each kind of limit the tightest counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

_UNLIMITED = 1 << 60  # version 1 writes a huge number for no limit
_CACHES = ("inactive_file", "active_file", "slab_reclaimable")  # dropped before anybody is killed
_CONTROLLERS = ("memory", "cpu", "pids")

T = TypeVar("T")


class Room(NamedTuple):
    """How much of something a group uses, and may use; of memory without the droppable caches."""

    used: int
    limit: int

    @property
    def percent(self) -> float:
        """How much of it is in use."""
        return min(100.0, 100.0 * self.used / self.limit)

    @property
    def available(self) -> int:
        """What is left."""
        return max(0, self.limit - self.used)


class _Version(NamedTuple):
    """The files of memory in one version of control groups."""

    used: str
    limits: tuple[str, ...]
    prefix: str  # of the lines in `memory.stat` that count the groups below too


_V1 = _Version("memory.usage_in_bytes", ("memory.limit_in_bytes",), "total_")
# Beyond `memory.high` nobody is killed, but everybody slows down to a crawl.
_V2 = _Version("memory.current", ("memory.max", "memory.high"), "")


class ControlGroups:
    """The groups that a process is in, its own and those above; `proc` is its folder.

    Everything is read when it is asked for, as limits change, and processes are moved. What cannot
    be read is no limit.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc
        self._found: dict[str, list[list[Path]]] = {}
        self._text = ""

    def own(self, controller: str) -> tuple[Path, ...]:
        """The process' own group of a controller, in each version of control groups in use."""
        return tuple(lineage[0] for lineage in self._lineages(controller))

    def memory(self) -> Room | None:
        """Bytes of the group with the least room left by its share; None if none is limited."""
        return max(self._each("memory", memory_of), key=lambda room: room.percent, default=None)

    def swap(self) -> Room | None:
        """Bytes of swap, likewise."""
        return max(self._each("memory", _swap), key=lambda room: room.percent, default=None)

    def cores(self) -> float | None:
        """The least quota of processor time, in cores, such as 2.5; None if there is none."""
        return min(self._each("cpu", _quota), default=None)

    def threads(self) -> Room | None:
        """Processes and threads of the group that may begin the fewest; None if none is limited."""
        return min(self._each("pids", _threads), key=lambda room: room.available, default=None)

    def _each(self, controller: str, read: Callable[[Path], T | None]) -> Iterator[T]:
        folders = (folder for lineage in self._lineages(controller) for folder in lineage)
        return (found for folder in folders if (found := read(folder)) is not None)

    def _lineages(self, controller: str) -> list[list[Path]]:
        """Folders from its own group upwards, one list of each version."""
        text = _text(self._proc / "cgroup")
        if text != self._text:  # it is in another group than before
            mounts = _mounts(_text(self._proc / "mountinfo").splitlines())
            self._found = {each: list(_find(each, text, mounts)) for each in _CONTROLLERS}
            self._text = text
        return self._found.get(controller, [])


class _Mount(NamedTuple):
    """Where a tree of groups is seen, from which of its groups on; `options` as mounted."""

    kind: str
    options: frozenset[str]
    root: PurePosixPath
    folder: Path

    def place(self, path: PurePosixPath) -> Path:
        """Where a group is; the mount itself for one that is not to be seen there.

        In a container that is so: what is mounted is its own group, and all that it may know.
        """
        if ".." in path.parts or not path.is_relative_to(self.root):
            return self.folder
        return self.folder / path.relative_to(self.root)

    def lineage(self, path: PurePosixPath) -> list[Path]:
        """A group's folder and those above."""
        place = self.place(path)
        return [place, *(each for each in place.parents if each.is_relative_to(self.folder))]


def _find(controller: str, groups: str, mounts: list[_Mount]) -> Iterator[list[Path]]:
    """The lineage in each version; see cgroups(7)."""
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/") or (controllers and controller not in controllers.split(",")):
            continue
        kind, group = "cgroup" if controllers else "cgroup2", PurePosixPath(path)
        fits = [
            mount
            for mount in mounts
            if mount.kind == kind and (not controllers or controller in mount.options)
        ]
        # The same tree may be seen in several places: best where the group itself is.
        fits.sort(key=lambda mount: not (group.is_relative_to(mount.root)))
        if fits:
            yield fits[0].lineage(group)


def _mounts(lines: Iterable[str]) -> list[_Mount]:
    """See proc_pid_mountinfo(5)."""
    mounts = []
    for line in lines:
        before, _, after = line.partition(" - ")
        here, there = before.split(), after.split()
        if len(here) > 4 and len(there) > 2 and there[0] in ("cgroup", "cgroup2"):
            root, folder = PurePosixPath(_unescaped(here[3])), Path(_unescaped(here[4]))
            mounts.append(_Mount(there[0], frozenset(there[2].split(",")), root, folder))
    return mounts


def _unescaped(text: str) -> str:
    """A path as it is; there a space is written as its octal number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def memory_of(folder: Path) -> Room | None:
    """One group's bytes; None where it has no limit."""
    version = _V2 if (folder / _V2.used).exists() else _V1
    stat = _numbers(folder / "memory.stat")
    caches = sum(stat.get(version.prefix + name, 0) for name in _CACHES)
    limits = (_number(folder / name) for name in version.limits)
    return _room(_number(folder / version.used), limits, less=caches)


def _swap(folder: Path) -> Room | None:
    # Version 1 limits memory and swap together alone.
    return _room(_number(folder / "memory.swap.current"), [_number(folder / "memory.swap.max")])


def _threads(folder: Path) -> Room | None:
    return _room(_number(folder / "pids.current"), [_number(folder / "pids.max")])


def _quota(folder: Path) -> float | None:
    """Cores; microseconds a period of microseconds are what is written there."""
    words = _text(folder / "cpu.max").split()  # "max 100000", "250000 100000"
    words = words or [
        _text(folder / "cpu.cfs_quota_us").strip(),  # -1 for none
        _text(folder / "cpu.cfs_period_us").strip(),
    ]
    with suppress(ValueError, IndexError):
        quota_us, period_us = int(words[0]), int(words[1])
        return quota_us / period_us if quota_us > 0 and period_us > 0 else None
    return None


def _room(used: int | None, limits: Iterable[int | None], *, less: int = 0) -> Room | None:
    limit = min((each for each in limits if each is not None), default=_UNLIMITED)
    if used is None or used < 0 or not 0 < limit < _UNLIMITED:
        return None
    return Room(max(0, used - less), limit)


def _number(file: Path) -> int | None:
    """A file's number; None for `max`, and for a file that is not there."""
    with suppress(ValueError):
        return int(_text(file))
    return None


def _numbers(file: Path) -> Mapping[str, int]:
    """A file of names and numbers."""
    rows = (line.split() for line in _text(file).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def _text(file: Path) -> str:
    """What is in it; nothing for one that is not there, or goes while it is read."""
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""
