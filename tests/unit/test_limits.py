"""Cores, threads and memory that may be used: recorded control groups, and real ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config import Settings
from sovl_daemon.limits import ControlGroups, available_parallelism, memory, usable_cores
from tests.groups import V1_MOUNT, V2_MOUNT, Recorded, real_group

MB = 1 << 20


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


def test_a_quota_of_version_2(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/box\n")
    found.write("box", cpu_max="100000 100000")
    assert (usable_cores(found.groups), available_parallelism(found.groups)) == (1, 1)


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V1_MOUNT, "3:cpu,cpuacct:/box\n0::/\n")
    found.write("box", cpu_cfs_quota_us=250_000, cpu_cfs_period_us=100_000)
    assert (usable_cores(found.groups), available_parallelism(found.groups)) == (2.5, 2)


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (1.99, 1), (2.5, 2), (40, 16)])
def test_parts_of_a_core(tmp_path: Path, quota: float, threads: int) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/box\n")
    found.write("box", cpu_max=f"{quota * 50_000:.0f} 50000")
    assert usable_cores(found.groups) == min(16, quota)
    assert available_parallelism(found.groups) == threads


def test_the_least_quota_of_all_groups_above(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/machine/pod/box\n")
    found.write("machine/pod/box", cpu_max="max 100000")
    found.write("machine/pod", cpu_max="300000 100000")
    found.write("machine", cpu_max="800000 100000")
    assert usable_cores(found.groups) == 3


@pytest.mark.parametrize(
    "text", ["", "max", "max 100000", "0 100000", "-1 100000", "100000 0", "a b", "\x00"]
)
def test_what_is_no_quota(tmp_path: Path, text: str) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/box\n")
    found.write("box", cpu_max=text)
    assert usable_cores(found.groups) == 16


def test_no_quota_of_version_1(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V1_MOUNT, "3:cpu,cpuacct:/box\n")
    found.write("box", cpu_cfs_quota_us=-1, cpu_cfs_period_us=100_000)
    assert usable_cores(found.groups) == 16


def test_a_quota_that_changes_and_a_process_that_is_moved(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/box\n")
    found.write("box", cpu_max="max 100000")
    groups = found.groups
    assert usable_cores(groups) == 16
    found.write("box", cpu_max="400000 100000")
    assert usable_cores(groups) == 4
    found.write("other", cpu_max="200000 100000")
    found.move("0::/other\n")
    assert usable_cores(groups) == 2


@pytest.mark.parametrize("path", ["/../../elsewhere", "/docker/abc", "/"])
def test_a_group_that_cannot_be_seen_from_the_container(tmp_path: Path, path: str) -> None:
    found = Recorded(tmp_path, V2_MOUNT, f"0::{path}\n", root="/docker/abc")
    found.write("", cpu_max="200000 100000")
    assert usable_cores(found.groups) == 2


def test_a_mount_is_no_other_whose_name_begins_so(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/docker/abc2\n", root="/docker/abc")
    found.write("", cpu_max="200000 100000")
    found.write("2", cpu_max="100000 100000")
    assert usable_cores(found.groups) == 2


@pytest.mark.parametrize("text", ["garbage\n", "::\n", "0:\n", "\n", "0::relative\n", "1 2 - 3\n"])
def test_strange_files_limit_nothing(tmp_path: Path, text: str) -> None:
    found = Recorded(tmp_path, V2_MOUNT, text)
    (found.proc / "mountinfo").write_text(text)
    assert usable_cores(found.groups) == 16
    assert found.groups.memory() is None


def test_a_tree_that_is_mounted_twice(tmp_path: Path) -> None:
    second = "50 31 0:38 /../.. /somewhere/else rw - cgroup2 cgroup2 rw\n"
    found = Recorded(tmp_path, second + V2_MOUNT, "0::/box\n")
    found.write("box", cpu_max="200000 100000")
    assert usable_cores(found.groups) == 2


def test_few_threads_are_left_to_the_rest_of_the_daemon(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/box\n")
    found.write("box", pids_max=40, pids_current=9)
    assert available_parallelism(found.groups) == 8
    found.write("box", pids_max=20)
    assert available_parallelism(found.groups) == 1
    found.write("box", pids_max="max")
    assert available_parallelism(found.groups) == 16


def test_swap_that_a_group_may_use(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/box\n")
    found.write("box", **{"memory_swap.max": 100 * MB, "memory_swap.current": 40 * MB})
    swap = found.groups.swap()
    assert swap is not None
    assert swap.percent == 40


def test_memory_of_machine_and_group(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/box\n")
    whole = memory(found.groups)
    assert whole is not None
    found.write("box", memory_max=100 * MB, memory_current=98 * MB)
    part = memory(found.groups)
    assert part is not None
    assert (part.percent, part.available, part.total) == (98, 2 * MB, 100 * MB)
    assert whole.total > part.total


def test_tensor_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert Settings().host.max_threads() == 1


def test_no_cores_are_more_than_all(tmp_path: Path) -> None:
    assert usable_cores(ControlGroups(tmp_path / "gone")) == 16


def test_a_real_quota_now_and_after_a_change() -> None:
    asked = "import sys; from sovl_daemon.limits import usable_cores\n"
    asked += "for _ in sys.stdin: print(usable_cores(), flush=True)"
    with real_group("cpu") as group:
        group.allow_cores(0.5)
        command = [*group.wrapper, sys.executable, "-c", asked]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for cores in (0.5, 0.25):
                group.allow_cores(cores)
                process.stdin.write("\n")
                process.stdin.flush()
                assert float(process.stdout.readline()) == cores
            process.stdin.close()
