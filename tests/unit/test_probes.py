"""What the probes read is what the machine says."""

import os
import subprocess
import sys

import psutil
import pytest

from sovl_daemon import probes
from sovl_daemon.probes import MachineProbe, anonymous_bytes


def test_sample_of_ourselves() -> None:
    sample = MachineProbe().sample({"me": os.getpid()})
    assert 0 <= sample.memory_percent <= 100
    assert 0 < sample.memory_available <= psutil.virtual_memory().total
    mine = sample.processes["me"]
    assert mine.pid == os.getpid()
    assert mine.anonymous is not None
    assert 0 < mine.anonymous <= mine.rss


def test_anonymous_memory_grows_with_what_is_held() -> None:
    before = anonymous_bytes(os.getpid())
    held = bytearray(b"x") * 400_000_000  # far more than what may be freed meanwhile
    after = anonymous_bytes(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before > 300_000_000
    del held


def test_ended_process_is_left_out() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    probe = MachineProbe()
    assert "child" in probe.sample({"child": child.pid}).processes
    child.kill()
    child.wait()
    assert probe.sample({"child": child.pid}).processes == {}
    assert anonymous_bytes(child.pid) is None


class _Nvml:
    """Stands in for the driver; the real one is asked on machines that have it."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, count: int | None) -> None:
        self._count = count

    def nvmlInit(self) -> None:  # noqa: N802
        if self._count is None:
            raise self.NVMLError

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self._count or 0

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, gpu: int) -> str:  # noqa: N802
        return f"card {gpu}"

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> object:  # noqa: N802
        return type("Memory", (), {"used": 1 << 30, "total": 8 << 30})

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> object:  # noqa: N802
        return type("Rates", (), {"gpu": 37})

    def nvmlDeviceGetTemperature(self, gpu: int, kind: int) -> int:  # noqa: N802
        return 61


@pytest.mark.parametrize(("count", "names"), [(None, []), (0, []), (2, ["card 0", "card 1"])])
def test_gpus_are_sampled_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch, count: int | None, names: list[str]
) -> None:
    monkeypatch.setattr(probes, "pynvml", _Nvml(count))
    sample = MachineProbe().sample({})
    assert [gpu.name for gpu in sample.gpus] == names
    for gpu in sample.gpus:
        assert (gpu.utilization_percent, gpu.temperature, gpu.memory_used) == (37, 61, 1 << 30)
