"""The room for memory in control groups: recorded ones of both versions, and this machine's."""

from pathlib import Path

import pytest

from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.limits import ControlGroups
from tests.groups import V1_MOUNT, V2_MOUNT, Recorded

MB = 1 << 20


def v2(current: int, limit: object, *, file: int = 0, high: object = "max") -> dict[str, object]:
    stat = f"anon 5\ninactive_file {file}\nactive_file 0\nslab_reclaimable 0"
    return {
        "memory_current": current * MB,
        "memory_max": limit,
        "memory_high": high,
        "memory_stat": stat,
    }


def v1(usage: int, limit: int, *, file: int = 0) -> dict[str, object]:
    stat = f"inactive_file 1\ntotal_inactive_file {file}\ntotal_active_file 0"
    return {
        "memory_usage_in_bytes": usage * MB,
        "memory_limit_in_bytes": limit,
        "memory_stat": stat,
    }


def percent(found: Recorded) -> float | None:
    room = found.groups.memory()
    return None if room is None else room.percent


def test_version_2_and_the_groups_above(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/system.slice/sovl.service\n")
    found.write("system.slice/sovl.service", **v2(60, 200 * MB))
    assert percent(found) == 30
    found.write("system.slice", **v2(90, 100 * MB))
    assert percent(found) == 90


def test_caches_that_can_be_dropped_are_not_in_use(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.write("a", **v2(90, 100 * MB, file=40 * MB))
    assert percent(found) == 50


def test_what_slows_down_counts_as_a_limit(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.write("a", **v2(60, "max", high=80 * MB))
    assert percent(found) == 75


@pytest.mark.parametrize("limit", ["max", 0, ""])
def test_no_limit(tmp_path: Path, limit: object) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.write("a", **v2(60, limit))
    assert percent(found) is None


def test_version_1_beside_version_2(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V1_MOUNT, "8:pids:/\n4:memory:/box\n0::/\n")
    found.write("box", **v1(90, 100 * MB, file=30 * MB))
    found.write("", **v1(500, 9223372036854771712))
    assert percent(found) == 60


@pytest.mark.parametrize("path", ["/docker/abc", "/"])
def test_in_a_container_the_mount_is_its_own_group(tmp_path: Path, path: str) -> None:
    found = Recorded(tmp_path, V1_MOUNT, f"4:memory:{path}\n", root="/docker/abc")
    found.write("", **v1(70, 100 * MB))
    assert percent(found) == 70


def test_without_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert ControlGroups(tmp_path / "gone").memory() is None


def test_more_than_the_limit_is_all_of_it(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.write("a", **v2(110, 100 * MB))
    room = found.groups.memory()
    assert room is not None
    assert (room.percent, room.available) == (100, 0)


def test_the_machine_has_no_more_room_than_its_group(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/a\n")
    found.write("a", **v2(99, 100 * MB))
    read = Machine(tmp_path, ControlGroups(found.proc)).read()
    assert read["memory.percent"] == 99
    assert read["memory.available_bytes"] == MB


def test_our_own_groups_can_be_read() -> None:
    room = ControlGroups().memory()
    assert room is None or 0 < room.percent <= 100
