"""Sensors that are missing, partial, wrong or lost: values that are not there, and nothing else."""

import json
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from sovl_daemon.control.diagnosis import diagnose
from sovl_daemon.control.metric_sampler import MetricSampler
from sovl_daemon.control.sources import gpu
from sovl_daemon.control.sources.gauges import Gauges
from sovl_daemon.control.sources.gpu import Gpus
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.control.sources.pressure import Pressure
from sovl_daemon.control.task_file import load_tasks
from sovl_daemon.health_sampler import HealthSampler
from sovl_daemon.testing import running, until
from tests.conftest import ECHO
from tests.control import MEMORY
from tests.nvml import Nvml
from tests.world import situation

HEALTH_ALONE = {"agents.disabled": ECHO["agents.disabled"]}
# A library as it was found on machines whose card shares the machine's memory, or was lost.
LOST = """
    import sys
    NVML_TEMPERATURE_GPU = 0
    NVML_ERROR_GPU_IS_LOST = 15
    class NVMLError(Exception): pass
    def nvmlInit(): pass
    def nvmlShutdown(): pass
    def nvmlDeviceGetCount(): return 1
    def nvmlDeviceGetHandleByIndex(index): return index
    def lost(*_): raise NVMLError("GPU is lost")
    nvmlDeviceGetName = nvmlDeviceGetMemoryInfo = nvmlDeviceGetUtilizationRates = lost
    nvmlDeviceGetTemperature = nvmlDeviceGetPowerUsage = lost
"""


@situation("own", "Self-diagnosis goes on where the card is lost or tells little.")
def test_a_lost_card_leaves_the_health_agent_alive(runtime: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "pynvml.py").write_text(textwrap.dedent(LOST))
    with running(runtime, packages=packages, **HEALTH_ALONE) as daemon:
        for _ in until():
            sample = json.loads(daemon.sovl("health", "--json").stdout)
            if sample.get("gpus"):
                break
        assert sample["gpus"][0]["memory_total"] is None
        assert sample["memory_percent"] > 0
        assert daemon.sovl("health").returncode == 0
        with daemon.client() as client:
            assert client.ask("diagnose")["findings"]


def read_and_diagnosed(cards: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The sample that people see, and what self-diagnosis makes of the same readings."""
    monkeypatch.setattr(gpu, "pynvml", Nvml(cards))
    tasks, gpus = load_tasks(), Gpus()
    sampler = MetricSampler(tasks.values(), [Machine(Path()), Pressure(), gpus], Gauges())
    found = sampler.sample(0, 1000)
    merged = {name: reading for each in found.values() for name, reading in each.items()}
    return HealthSampler().sample(sampler.values, gpus.cards, {}), diagnose(tasks.values(), merged)


@situation(
    "Project-HAMi/HAMi#1511",
    "A card without memory of its own (GB10) is watched for what it tells: use and temperature.",
)
def test_memory_that_is_shared_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    spark = {"name": "NVIDIA GB10", "gpu": 3, "temperature": 35, "milliwatts": 11_170}
    sample, diagnosis = read_and_diagnosed([spark], monkeypatch)
    assert (sample.gpus[0].memory_total, sample.gpus[0].temperature) == (None, 35)
    assert diagnosis.findings


@situation(
    "XuehaiPan/nvitop#208",
    "A library that answers with zeros for shared memory tells of none, not of a division by zero.",
)
def test_zeros_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, _ = read_and_diagnosed([{"used": 0, "total": 0, "gpu": 0}], monkeypatch)
    assert (sample.gpus[0].memory_total, sample.gpus[0].utilization_percent) == (None, 0)


@situation(
    "rossumai/nvgpu#6", "One lost card of several costs neither the others nor the whole report."
)
def test_one_of_several_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    well = {"name": "card", "used": 1 << 30, "total": 8 << 30, "gpu": 5, "temperature": 40}
    gone = dict.fromkeys(well, pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST))
    sample, _ = read_and_diagnosed([{}, gone, well], monkeypatch)
    assert [each.temperature for each in sample.gpus] == [None, None, 40]


@situation(
    "ganglia/gmond_python_modules#244",
    "A driver that is unavailable for a while ends no daemon, and is found when it is back.",
)
def test_a_driver_that_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Nvml([{"temperature": 40}])
    monkeypatch.setattr(gpu, "pynvml", library)
    now_s = 0.0
    gpus = Gpus(driver=tmp_path, clock=lambda: now_s)
    for error in (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH):
        assert library.cards is not None
        library.cards[0]["temperature"] = pynvml.NVMLError(error)
        now_s += 60
        assert gpus.read()["gpu0.temperature"] is None
    cards, library.cards = library.cards, None
    now_s += 60
    assert gpus.read() == {}
    cards[0]["temperature"], library.cards = 41, cards
    now_s += 60
    assert gpus.read()["gpu0.temperature"] == 41


@situation(
    "ray-project/ray#4474",
    "A container that hides /proc/meminfo, and more, costs the daemon those values alone.",
)
def test_a_proc_of_which_much_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    tasks = load_tasks()
    sampler = MetricSampler(tasks.values(), [Machine(Path()), Pressure(tmp_path)], Gauges())
    for n in range(2):
        found = sampler.sample(n, 1000 + n)
    assert sampler.failures == {}
    assert MEMORY not in found["memory"] or found["memory"][MEMORY].fault == ""
    sample = HealthSampler().sample(sampler.values, (), {"me": 1})
    assert (sample.cpu_percent, sample.swap_percent) == (None, None)


@situation(
    "open-telemetry/opentelemetry-python-contrib#3740",
    "A sandbox without /proc/vmstat has its use of swap told, and no warning printed each time.",
)
def test_a_sandbox_that_counts_no_swapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nSwapTotal: 200 kB\nSwapFree: 150 kB\n")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert Machine(Path()).read()["swap.percent"] == 25
    assert not recwarn.list
