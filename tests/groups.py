"""Control groups for tests: recorded ones in a folder, and real ones where they can be made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sovl_daemon.limits import ControlGroups

V1_MOUNT = "32 31 0:29 {root} {mount} rw,relatime - cgroup cgroup rw,cpu,memory,pids\n"
V2_MOUNT = "41 31 0:38 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
_OTHER = "22 1 0:20 / /proc rw - proc proc rw\n36 31 0:33 / /x rw - cgroup cgroup rw,devices\n"


class Recorded:
    """A `/proc/PID` and a mounted tree of groups below `tmp_path`."""

    def __init__(self, tmp_path: Path, mounts: str, groups: str, root: str = "/") -> None:
        self.mount = tmp_path / "cgroup"
        self.proc = tmp_path / "proc"
        self.proc.mkdir()
        text = _OTHER + mounts.format(root=root, mount=self.mount)
        (self.proc / "mountinfo").write_text(text)
        self.move(groups)

    @property
    def groups(self) -> ControlGroups:
        return ControlGroups(self.proc)

    def move(self, groups: str) -> None:
        """Put the process into other groups."""
        (self.proc / "cgroup").write_text(groups)

    def write(self, path: str, **files: object) -> None:
        """Write files of a group: `cpu_max` is `cpu.max`."""
        folder = self.mount / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("_", ".", 1)).write_text(f"{content}\n")


class RealGroup:
    """A control group of this machine, below our own; `wrapper` starts a command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def wrapper(self) -> list[str]:
        return ["sh", "-c", f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"', "sh"]

    def allow_cores(self, cores: float) -> None:
        if (self.folder / "cpu.max").exists():
            (self.folder / "cpu.max").write_text(f"{cores * 100_000:.0f} 100000")
        else:
            (self.folder / "cpu.cfs_period_us").write_text("100000")
            (self.folder / "cpu.cfs_quota_us").write_text(f"{cores * 100_000:.0f}")

    def allow_threads(self, count: int) -> None:
        (self.folder / "pids.max").write_text(str(count))


@contextmanager
def real_group(controller: str) -> Iterator[RealGroup]:
    """A group that is removed at the end; skips the test where none can be made."""
    for own in ControlGroups().own(controller):
        folder = own / f"sovl-test-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            if any(folder.glob(f"{controller}.[mc][af][xs]*")):  # max, or cfs_quota_us
                try:
                    yield RealGroup(folder)
                finally:
                    folder.rmdir()
                return
            folder.rmdir()
    pytest.skip(f"no control group of {controller} can be made here")
