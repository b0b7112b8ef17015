"""What a container or a service manager leaves of the machine, at the start and when it changes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sovl_daemon.cli import exits
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.limits import available_parallelism, memory, usable_cores
from sovl_daemon.testing import PATIENCE_S, Daemon
from tests.groups import V1_MOUNT, V2_MOUNT, Recorded, real_group
from tests.world import situation

MB = 1 << 20


@pytest.fixture
def ninety_six_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(96)))


@situation("own", "With a quota of one core on a machine of many, one thread computes.")
def test_a_quota_of_one_core_on_a_machine_of_many() -> None:
    asked = (
        "import os; os.sched_getaffinity = lambda _: set(range(16))\n"
        "from config import Settings; print(Settings().host.max_threads())"
    )
    with real_group("cpu") as group:
        group.allow_cores(1.0)
        found = subprocess.run(
            [*group.wrapper, sys.executable, "-c", asked], capture_output=True, text=True
        )
    assert found.stdout == "1\n", found.stderr


@situation("ollama/ollama#17916", "Quota and set of cores are both obeyed, whichever leaves less.")
@pytest.mark.parametrize(("cpuset", "quota", "threads"), [(4, "max", 4), (8, "400000", 4)])
def test_quota_and_set_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuset: int, quota: str, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpuset)))
    found = Recorded(tmp_path, V2_MOUNT, "0::/\n")
    found.write("", cpu_max=f"{quota} 100000")
    assert available_parallelism(found.groups) == threads


@pytest.mark.usefixtures("ninety_six_cores")
@situation(
    "tobocop2/lilbee#660",
    "A quota that is no whole number of cores is rounded down, in the old kind of groups as well.",
)
def test_a_part_of_a_core_is_no_thread(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V1_MOUNT, "11:cpu,cpuacct:/docker/pod\n", root="/docker/pod")
    found.write("", cpu_cfs_quota_us=765_000, cpu_cfs_period_us=100_000)
    assert usable_cores(found.groups) == 7.65
    assert available_parallelism(found.groups) == 7


@pytest.mark.usefixtures("ninety_six_cores")
@situation(
    "llmmanorg/llmman#485", "A quota of a group above, such as a slice of services, counts as well."
)
def test_the_quota_of_a_slice(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/user.slice/sovl.scope\n")
    found.write("user.slice/sovl.scope", cpu_max="max 100000")
    found.write("user.slice", cpu_max="200000 100000")
    assert available_parallelism(found.groups) == 2
    found.write("user.slice", cpu_max="600000 100000")  # systemctl set-property
    assert available_parallelism(found.groups) == 6


@situation(
    "giampaolo/psutil#1011", "Inside a container, memory is that of the container, not the host's."
)
def test_the_memory_of_a_container(tmp_path: Path) -> None:
    found = Recorded(tmp_path, V2_MOUNT, "0::/\n")
    found.write("", memory_max=512 * MB, memory_current=128 * MB)
    left = memory(found.groups)
    assert left is not None
    assert (left.total, left.available) == (512 * MB, 384 * MB)
    found.write("", memory_max=256 * MB)  # docker update
    assert Machine(tmp_path, found.groups).read()["memory.available_bytes"] == 128 * MB


@situation(
    "containers/toolbox#849",
    "Where few threads may begin, the daemon says so in one line, and nothing aborts.",
)
def test_few_threads(runtime: Path) -> None:
    with real_group("pids") as group:
        group.allow_threads(8)
        daemon = Daemon(runtime, wrapper=group.wrapper).start()
        assert daemon.process.wait(PATIENCE_S) == exits.EX_CONFIG
        (said,) = daemon.output().splitlines()
        assert said.startswith("sovl: pids.max: 8 threads")
