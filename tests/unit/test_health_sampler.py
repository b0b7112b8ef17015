"""What the samplers say is what the machine says, and what it does not say is not known."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bus.topics import HealthSample
from sovl_daemon.control.sources.gpu import GpuStatus
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.control.sources.process_tree import anonymous_bytes
from sovl_daemon.health_sampler import HealthSampler

KNOWN = {"cpu.percent": 12.0, "memory.percent": 50.0, "memory.available_bytes": 1e9}


def test_sample_of_ourselves(tmp_path: Path) -> None:
    sample = HealthSampler().sample(Machine(tmp_path).read(), (), {"me": os.getpid()})
    assert sample.memory_percent is not None
    assert 0 <= sample.memory_percent <= 100
    assert sample.memory_available is not None
    assert 0 < sample.memory_available <= psutil.virtual_memory().total
    mine = sample.processes["me"]
    assert mine.pid == os.getpid()
    assert mine.anonymous is not None
    assert mine.rss is not None
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
    sampler = HealthSampler()
    assert "child" in sampler.sample({}, (), {"child": child.pid}).processes
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie until it is waited for
    assert sampler.sample({}, (), {"child": child.pid}).processes == {}
    child.wait()
    assert sampler.sample({}, (), {"child": child.pid}).processes == {}
    assert anonymous_bytes(child.pid) is None


def test_what_a_machine_does_not_tell_is_not_known() -> None:
    sample = HealthSampler().sample({}, (), {})
    assert (sample.cpu_percent, sample.memory_available, sample.load_1m) == (None, None, None)
    assert HealthSample.model_validate_json(sample.model_dump_json()) == sample


@pytest.mark.parametrize("error", [psutil.AccessDenied(1), FileNotFoundError("/proc/1/fd")])
def test_what_a_process_does_not_let_us_see(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(self: psutil.Process) -> int:
        raise error

    monkeypatch.setattr(psutil.Process, "num_fds", refuse)
    mine = HealthSampler().sample(KNOWN, (), {"me": os.getpid()}).processes["me"]
    assert mine.fds is None
    assert mine.threads is not None


def test_cards_that_tell_some_and_none() -> None:
    cards = (
        GpuStatus(0, "card", 1 << 30, 8 << 30, 37.0, 61.0, 120.0),
        GpuStatus(1),
    )
    first, second = HealthSampler().sample(KNOWN, cards, {}).gpus
    assert (first.name, first.memory_used, first.utilization_percent) == ("card", 1 << 30, 37)
    assert (second.index, second.name, second.memory_total) == (1, None, None)
