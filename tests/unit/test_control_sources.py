"""Sources say what the machine says: for real, and on recorded files."""

import math
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sovl_daemon.control.sources import gpu
from sovl_daemon.control.sources.gauges import Gauges, Rate, Ratio
from sovl_daemon.control.sources.gpu import Gpus
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.control.sources.pressure import Pressure, own_group
from sovl_daemon.control.sources.process_tree import ProcessTree, exact_anonymous_bytes

# Machine


def test_the_machine_for_real(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    first, second = machine.read(), machine.read()
    assert first["cpu.percent"] is None  # there is no time yet that it could be a share of
    for name in ("memory.percent", "swap.percent", "cpu.percent", "disk.percent"):
        value = second[name]
        assert value is not None
        assert 0 <= value <= 100
    available = second["memory.available_bytes"]
    assert available is not None
    assert 0 < available < psutil.virtual_memory().total


def test_a_disk_that_is_not_there(tmp_path: Path) -> None:
    found = Machine(tmp_path / "gone").read()
    assert found["disk.percent"] is None
    assert found["disk.free_bytes"] is None


# Pressure

PSI = (
    "some avg10=12.34 avg60=5.60 avg300=1.00 total=123456\n"
    "full avg10=3.21 avg60=1.00 avg300=0.50 total=23456\n"
)
PSI_CPU = "some avg10=50.00 avg60=40.00 avg300=30.00 total=99\n"  # older kernels have no full here


def test_recorded_pressure(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text(PSI)
    (tmp_path / "cpu").write_text(PSI_CPU)
    found = Pressure(tmp_path).read()
    assert (found["pressure.memory"], found["pressure.memory_60"]) == (12.34, 5.6)
    assert found["pressure.memory_full"] == 3.21
    assert (found["pressure.cpu"], found["pressure.cpu_full"]) == (50, None)
    assert found["pressure.io"] is None


def test_recorded_pressure_of_a_group(tmp_path: Path) -> None:
    group = tmp_path / "system.slice" / "sovl.service"
    group.mkdir(parents=True)
    (group / "memory.pressure").write_text(PSI)
    (tmp_path / "self").write_text("1:name=systemd:/x\n0::/system.slice/sovl.service\n")
    assert own_group(tmp_path, tmp_path / "self") == group
    found = Pressure(tmp_path, group).read()
    assert found["group.pressure.memory"] == 12.34
    assert found["group.pressure.io"] is None
    assert found["pressure.memory"] is None


@pytest.mark.parametrize("text", ["", "4:memory:/a\n", "0::/gone\n"])
def test_no_group_of_version_two(tmp_path: Path, text: str) -> None:
    (tmp_path / "self").write_text(text)
    assert own_group(tmp_path, tmp_path / "self") is None
    assert own_group(tmp_path, tmp_path / "not there") is None


@pytest.mark.parametrize("text", ["garbage\n", "some\n", "\n\n"])
def test_unknown_forms_of_pressure_are_no_reading(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory").write_text(text)
    assert Pressure(tmp_path, tmp_path).read()["pressure.memory"] is None


def test_pressure_for_real() -> None:
    found = Pressure().read()
    there = Path("/proc/pressure/memory").exists()
    value = found["pressure.memory"]
    assert (value is not None) is there
    assert value is None or 0 <= value <= 100


# Process trees


def test_a_tree_counts_its_children_for_real() -> None:
    hold = "import sys; held = bytearray(b'x') * 60_000_000; print('held', flush=True); input()"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {hold!r}], stdin=subprocess.PIPE)\n"
        "input(); child.communicate()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    tree = ProcessTree({"host": process.pid, "me": os.getpid()})
    found = tree.read()
    anonymous, rss = found["host.anonymous_bytes"], found["host.rss_bytes"]
    assert anonymous is not None
    assert rss is not None
    assert 60e6 < anonymous < rss
    assert found["host.processes"] == 2
    own = exact_anonymous_bytes(process.pid)
    assert own is not None
    assert own < 60e6  # the parent alone holds little
    process.communicate("\n")
    assert tree.read()["host.anonymous_bytes"] is None
    assert tree.read()["host.processes"] is None
    assert exact_anonymous_bytes(process.pid) is None


def test_children_are_looked_for_now_and_then() -> None:
    now_s = 0.0
    tree = ProcessTree({"me": os.getpid()}, clock=lambda: now_s)
    before = tree.read()["me.processes"]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert before is not None
    now_s = 29.0
    assert tree.read()["me.processes"] == before
    now_s = 30.0
    assert tree.read()["me.processes"] == before + 1
    tree.watch("child", child.pid)
    assert tree.read()["child.processes"] == 1
    child.communicate()


def test_file_backed_memory_is_not_anonymous() -> None:
    exact = exact_anonymous_bytes(os.getpid())
    assert exact is not None
    assert 0 < exact < psutil.Process().memory_info().rss


def test_recorded_processes(tmp_path: Path) -> None:
    folder = tmp_path / "999999999"
    folder.mkdir()
    (folder / "status").write_text(
        "Name:\tpython\nVmRSS:\t  2000 kB\nRssAnon:\t  1000 kB\nVmSwap:\t  10 kB\nThreads:\t3\n"
    )
    (folder / "smaps_rollup").write_text(
        "55-7f ---p 00000000 00:00 0   [rollup]\nRss: 2000 kB\nAnonymous: 1000 kB\nSwap: 10 kB\n"
    )
    found = ProcessTree({"hub": 999999999}, tmp_path).read()
    assert found["hub.anonymous_bytes"] == 1000 * 1024
    assert found["hub.swap_bytes"] == 10 * 1024
    assert exact_anonymous_bytes(999999999, tmp_path) == 1010 * 1024


# GPUs


class Nvml:
    """Stands in for the driver, with readings as recorded from cards."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, cards: list[dict[str, float]] | None) -> None:
        self._cards = cards

    def nvmlInit(self) -> None:  # noqa: N802
        if self._cards is None:
            raise self.NVMLError

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._cards or [])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, float]:  # noqa: N802
        assert self._cards is not None
        if not self._cards[index]:
            raise self.NVMLError
        return self._cards[index]

    def _ask(self, card: dict[str, float], key: str) -> float:
        if key not in card:
            raise self.NVMLError
        return card[key]

    def nvmlDeviceGetMemoryInfo(self, card: dict[str, float]) -> object:  # noqa: N802
        used, total = self._ask(card, "used"), self._ask(card, "total")
        return type("Memory", (), {"used": used, "total": total})

    def nvmlDeviceGetUtilizationRates(self, card: dict[str, float]) -> object:  # noqa: N802
        return type("Rates", (), {"gpu": self._ask(card, "gpu")})

    def nvmlDeviceGetTemperature(self, card: dict[str, float], sensor: int) -> float:  # noqa: N802
        return self._ask(card, "temperature")

    def nvmlDeviceGetPowerUsage(self, card: dict[str, float]) -> float:  # noqa: N802
        return self._ask(card, "milliwatts")


SMALL: dict[str, float] = {
    "used": 4 << 30,
    "total": 8 << 30,
    "gpu": 37,
    "temperature": 61,
    "milliwatts": 120_500,
}
LARGE: dict[str, float] = {"used": 72 << 30, "total": 80 << 30, "gpu": 12, "temperature": 48}


@pytest.mark.parametrize("cards", [None, []])
def test_no_gpu_is_normal(
    monkeypatch: pytest.MonkeyPatch, cards: list[dict[str, float]] | None
) -> None:
    monkeypatch.setattr(gpu, "pynvml", Nvml(cards))
    assert Gpus().count == 0
    assert Gpus().read() == {}


def test_several_gpus_and_the_worst_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "pynvml", Nvml([SMALL, {}, LARGE]))
    found = Gpus().read()
    assert (found["gpu0.memory_percent"], found["gpu1.memory_percent"]) == (50, 90)
    assert (found["gpu0.power_watts"], found["gpu1.power_watts"]) == (120.5, None)
    assert found["gpu.memory_percent"] == 90
    assert found["gpu.utilization_percent"] == 37
    assert found["gpu.temperature"] == 61


def test_a_card_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "pynvml", Nvml([{"shared": 1}]))
    assert set(Gpus().read().values()) == {None}


def test_gpus_for_real() -> None:
    cards = Gpus()
    assert bool(cards.read()) is (cards.count > 0)


# Gauges


def test_gauges_keep_their_time() -> None:
    gauges = Gauges()
    assert gauges.taken_s("queue.depth") == -math.inf
    gauges.give("queue.depth", 3, 10.0)
    gauges.give("queue.depth", 4, 11.0)
    assert gauges.read() == {"queue.depth": 4}
    assert gauges.taken_s("queue.depth") == 11
    gauges.withdraw("queue.depth")
    assert gauges.read() == {}


def test_a_loss_against_its_own_mean() -> None:
    ratio = Ratio()
    assert ratio.add(2.0) == 1
    for _ in range(200):
        assert ratio.add(2.0) == pytest.approx(1)
    assert ratio.add(6.0) == pytest.approx(3)


def test_rates_over_a_window() -> None:
    rate = Rate(window_s=10)
    assert rate.failed_percent(0) == 0
    rate.add(0, 50)
    rate.add(5, 50, failed=True)
    assert rate.per_s(5) == 10
    assert rate.failed_percent(5) == 50
    assert rate.per_s(10.5) == 5
    assert rate.failed_percent(20) == 0
