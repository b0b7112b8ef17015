"""Sources say what the machine says: for real, and on recorded files."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from sovl_daemon.control.sources import gpu
from sovl_daemon.control.sources.gauges import Gauges, Rate, Ratio
from sovl_daemon.control.sources.gpu import Gpus, GpuStatus
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.control.sources.pressure import Pressure
from sovl_daemon.control.sources.process_tree import ProcessTree, exact_anonymous_bytes
from sovl_daemon.control.sources.source import plausible
from tests.groups import V2_MOUNT, Recorded
from tests.nvml import Nvml

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
    found = Recorded(tmp_path, V2_MOUNT, "1:name=systemd:/x\n0::/system.slice/sovl.service\n")
    found.write("system.slice/sovl.service", memory_pressure=PSI)
    values = Pressure(tmp_path, found.groups).read()
    assert values["group.pressure.memory"] == 12.34
    assert values["group.pressure.io"] is None
    assert values["pressure.memory"] is None


@pytest.mark.parametrize("text", ["", "4:memory:/a\n", "0::/gone\n"])
def test_no_group_with_pressure(tmp_path: Path, text: str) -> None:
    found = Recorded(tmp_path, V2_MOUNT, text)
    assert not any(name.startswith("group") for name in Pressure(tmp_path, found.groups).read())


@pytest.mark.parametrize(
    "text",
    [
        "garbage\n",
        "some\n",
        "\n\n",
        "some avg10=x\n",
        "some avg10=nan\n",
        "some avg10=-1\n",
        "\xff",
    ],
)
def test_unknown_forms_of_pressure_are_no_reading(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory").write_text(text)
    assert Pressure(tmp_path).read()["pressure.memory"] is None


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
    assert (found["gpu0.memory_percent"], found["gpu2.memory_percent"]) == (50, 90)
    assert (found["gpu0.power_watts"], found["gpu2.power_watts"]) == (120.5, None)
    assert found["gpu.memory_percent"] == 90
    assert found["gpu.utilization_percent"] == 37
    assert found["gpu.temperature"] == 61


def test_a_card_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "pynvml", Nvml([{"shared": 1}]))
    assert set(Gpus().read().values()) == {None}


def card(readings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> GpuStatus:
    monkeypatch.setattr(gpu, "pynvml", Nvml([readings]))
    gpus = Gpus()
    gpus.read()
    return gpus.cards[0]


@pytest.mark.parametrize(
    ("readings", "unknown"),
    [
        ({**SMALL, "gpu": 255}, "utilization_percent"),
        ({**SMALL, "gpu": -1}, "utilization_percent"),
        ({**SMALL, "temperature": math.nan}, "temperature"),
        ({**SMALL, "temperature": 100_000}, "temperature"),
        ({**SMALL, "used": "N/A"}, "memory_used"),
        ({**SMALL, "used": 9 << 30}, "memory_percent"),
        ({**SMALL, "total": 0}, "memory_total"),
        ({**SMALL, "used": None, "total": None}, "memory_percent"),
    ],
)
def test_what_no_card_can_be(
    monkeypatch: pytest.MonkeyPatch, readings: dict[str, Any], unknown: str
) -> None:
    found = card(readings, monkeypatch)
    assert getattr(found, unknown) is None
    assert found.power_watts == 120.5


@pytest.mark.parametrize(
    ("name", "says"), [("Orin", "Orin"), (b"Orin", "Orin"), (b"\xff", "\ufffd")]
)
def test_a_name_in_text_or_bytes(monkeypatch: pytest.MonkeyPatch, name: object, says: str) -> None:
    assert card({"name": name}, monkeypatch).name == says


def test_a_card_that_is_lost_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    readings: dict[str, Any] = dict(SMALL)
    library = Nvml([readings])
    monkeypatch.setattr(gpu, "pynvml", library)
    now_s = 0.0
    gpus = Gpus(driver=tmp_path, clock=lambda: now_s)
    assert gpus.read()["gpu0.temperature"] == 61
    readings.update(dict.fromkeys(SMALL, lost))
    now_s = 59.0
    gpus.read()
    now_s = 61.0
    assert set(gpus.read().values()) == {None}
    readings.update(SMALL)
    now_s = 119.0
    gpus.read()
    assert library.begun == 2  # not every time
    now_s = 122.0
    assert gpus.read()["gpu0.temperature"] == 61


def test_a_driver_that_is_loaded_later_and_a_second_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Nvml(None)
    monkeypatch.setattr(gpu, "pynvml", library)
    now_s = 0.0
    gpus = Gpus(driver=tmp_path, clock=lambda: now_s)
    assert gpus.read() == {}
    library.cards = [SMALL]
    (tmp_path / "0000:01:00.0").mkdir()
    now_s = 60.0
    gpus.read()
    assert gpus.count == 1
    begun = library.begun
    now_s = 120.0
    gpus.read()
    assert library.begun == begun  # nothing has changed
    library.cards = [SMALL, LARGE]
    (tmp_path / "0000:02:00.0").mkdir()
    now_s = 180.0
    gpus.read()
    assert gpus.count == 2


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


# What a sensor may say


@pytest.mark.parametrize("value", [None, "N/A", b"?", math.nan, math.inf, -1, 101, [], "1e999"])
def test_what_no_share_can_be_is_not_there(value: object) -> None:
    assert plausible(value, high=100.0) is None


def test_a_share() -> None:
    assert (plausible(0), plausible("12.5", high=100.0), plausible(100, high=100)) == (0, 12.5, 100)


@pytest.mark.parametrize(
    "names",
    [("virtual_memory",), ("swap_memory",), ("cpu_times",), ("getloadavg",), ("disk_usage",)],
)
@pytest.mark.parametrize("error", [FileNotFoundError("/proc/x"), PermissionError("/proc/x")])
def test_what_the_machine_hides_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], error: OSError
) -> None:
    def refuse(*_: object) -> None:
        raise error

    whole = Machine(tmp_path)
    whole.read()
    before = {name for name, value in whole.read().items() if value is not None}
    for name in names:
        monkeypatch.setattr(psutil, name, refuse)
    hidden = {name for name, value in whole.read().items() if value is None}
    assert 0 < len(hidden & before) <= 2


def test_counters_that_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = psutil.cpu_times()
    machine = Machine(tmp_path)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    machine.read()
    monkeypatch.setattr(psutil, "cpu_times", lambda: times._replace(user=0.0, idle=1.0))
    share = machine.read()["cpu.percent"]
    assert share is not None
    assert 0 <= share <= 100


def test_processes_that_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "children", refuse)
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "status").write_text("RssAnon:\t  x kB\nVmRSS:\nVmSwap:\t 1 kB\n")
    found = ProcessTree({"init": 1}, tmp_path).read()
    assert (found["init.anonymous_bytes"], found["init.rss_bytes"]) == (None, None)
    assert found["init.swap_bytes"] == 1024
