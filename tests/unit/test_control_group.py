"""The limits of control groups: recorded ones of both versions, and those of this machine."""

from pathlib import Path

import pytest

from sovl_daemon.control.sources.control_group import ControlGroups
from sovl_daemon.control.sources.machine import Machine

MB = 1 << 20
V1_MOUNT = "32 31 0:29 {root} {mount} rw,relatime - cgroup cgroup rw,memory\n"
V2_MOUNT = "41 31 0:38 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER = "22 1 0:20 / /proc rw - proc proc rw\n36 31 0:33 / /x rw - cgroup cgroup rw,devices\n"


class Recorded:
    """A `/proc/PID` and a mounted tree of groups below `tmp_path`."""

    def __init__(self, tmp_path: Path, mounts: str, groups: str, root: str = "/") -> None:
        self.mount = tmp_path / "cgroup"
        self.proc = tmp_path / "proc"
        self.proc.mkdir()
        text = OTHER + mounts.format(root=root, mount=self.mount)
        (self.proc / "mountinfo").write_text(text)
        (self.proc / "cgroup").write_text(groups)

    def group(self, path: str, **files: object) -> None:
        folder = self.mount / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / f"memory.{name}").write_text(f"{content}\n")

    def percent(self) -> float | None:
        room = ControlGroups(self.proc).tightest()
        return None if room is None else room.percent


def v2(current: int, limit: object, *, file: int = 0, high: object = "max") -> dict[str, object]:
    stat = f"anon 5\ninactive_file {file}\nactive_file 0\nslab_reclaimable 0"
    return {"current": current * MB, "max": limit, "high": high, "stat": stat}


def v1(usage: int, limit: int, *, file: int = 0) -> dict[str, object]:
    stat = f"inactive_file 1\ntotal_inactive_file {file}\ntotal_active_file 0"
    return {"usage_in_bytes": usage * MB, "limit_in_bytes": limit, "stat": stat}


def test_version_2_and_the_groups_above(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/system.slice/sovl.service\n")
    found.group("system.slice/sovl.service", **v2(60, 200 * MB))
    assert found.percent() == 30
    found.group("system.slice", **v2(90, 100 * MB))
    assert found.percent() == 90


def test_caches_that_can_be_dropped_are_not_in_use(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.group("a", **v2(90, 100 * MB, file=40 * MB))
    assert found.percent() == 50


def test_what_slows_down_counts_as_a_limit(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.group("a", **v2(60, "max", high=80 * MB))
    assert found.percent() == 75


@pytest.mark.parametrize("limit", ["max", 0, ""])
def test_no_limit(tmp_path: Path, limit: object) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.group("a", **v2(60, limit))
    assert found.percent() is None


def test_version_1_beside_version_2(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V1_MOUNT, "8:pids:/\n4:memory:/box\n0::/\n")
    found.group("box", **v1(90, 100 * MB, file=30 * MB))
    found.group("", **v1(500, 9223372036854771712))
    assert found.percent() == 60


@pytest.mark.parametrize("path", ["/docker/abc", "/"])
def test_in_a_container_the_mount_is_its_own_group(tmp_path: Path, path: str) -> None:
    found = Recorded(tmp_path, V1_MOUNT, f"4:memory:{path}\n", root="/docker/abc")
    found.group("", **v1(70, 100 * MB))
    assert found.percent() == 70


def test_without_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert ControlGroups(tmp_path / "gone").tightest() is None


def test_more_than_the_limit_is_all_of_it(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.group("a", **v2(110, 100 * MB))
    room = ControlGroups(found.proc).tightest()
    assert room is not None
    assert (room.percent, room.available) == (100, 0)


def test_the_machine_has_no_more_room_than_its_group(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.group("a", **v2(99, 100 * MB))
    read = Machine(tmp_path, ControlGroups(found.proc)).read()
    assert read["memory.percent"] == 99
    assert read["memory.available_bytes"] == MB


def test_our_own_groups_can_be_read() -> None:
    room = ControlGroups().tightest()
    assert room is None or 0 < room.percent <= 100
