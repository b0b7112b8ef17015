"""The number of threads is set for each step, by kind of work."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sovl_daemon import openmp
from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.model import load_model
from sovl_daemon.engine.thread import threads as module
from sovl_daemon.engine.thread.threads import Threads, Work, free_cores
from tests.unit.engine_tiny import save_tiny


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Eight that are free, whatever this machine has."""
    monkeypatch.setattr(module, "available_parallelism", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(module, "free_cores", lambda: 5)
    yield
    torch.set_num_threads(1)


def during(threads: Threads, work: Work, rows: int = 1) -> int:
    with threads.working(work, rows):
        return torch.get_num_threads()


@pytest.mark.parametrize("work", ["decoding", "reading", "judging", "training"])
def test_a_fixed_number_holds_for_all_work(work: Work) -> None:
    threads = Threads(3)
    assert {during(threads, work) for _ in range(20)} == {3}
    assert threads.now() == {}


def test_a_fixed_number_is_bounded_by_the_cores_of_the_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = Threads(3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert during(threads, "decoding") == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert during(threads, "decoding") == 3


def test_an_automatic_one_begins_with_the_free_cores_and_each_work_has_its_own() -> None:
    threads = Threads()
    assert during(threads, "decoding") == 4  # the tried number below the 5
    threads._counts["training"].count = 2
    assert threads.now() == {"decoding": 4, "training": 2}


def test_a_step_that_failed_tells_nothing() -> None:
    threads = Threads()
    with pytest.raises(ValueError, match="broken"), threads.working("reading", 5):
        raise ValueError("broken")
    assert threads._counts["reading"]._worked == 0


def test_a_pass_is_reading_or_decoding(tmp_path: Path) -> None:
    model = load_model(save_tiny(tmp_path), device="cpu", threads=0)
    cache = model.new_cache()
    model.forward([Span([5, 6, 7], cache)])
    assert set(model.threads.now()) == {"reading"}
    model.forward([Span([5], cache)])
    assert set(model.threads.now()) == {"reading", "decoding"}


def test_less_than_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="threads -1 is not allowed: give 1 or more, or 0"):
        load_model(tmp_path, threads=-1)


def test_what_runs_leaves_no_core_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = tmp_path / "loadavg"
    monkeypatch.setattr(module, "_LOAD", load)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for running, free in ((1, 4), (2, 3), (4, 1), (9, 1)):
        load.write_text(f"0.20 0.18 0.12 {running}/80 11206\n")
        assert free_cores() == free


def test_the_cores_that_stood_idle_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    idle, seconds = module.IdleCores(), 100.0
    monkeypatch.setattr(module, "_idle_s", lambda: seconds)
    assert idle(50.0) == 0  # for the first time
    seconds += 0.5
    assert idle(50.1) == 0  # too soon
    assert idle(50.5) == 1
    seconds += 60
    assert idle(110.5) == 0  # a pause


def test_openmp_is_told_how_to_wait_unless_somebody_has_said_it() -> None:
    told = openmp.variables(3, {})
    assert (told["OMP_NUM_THREADS"], told["OMP_WAIT_POLICY"]) == ("3", "passive")
    assert "GOMP_SPINCOUNT" not in openmp.variables(3, {"OMP_WAIT_POLICY": "active"})
    assert "OMP_WAIT_POLICY" not in openmp.variables(3, {"GOMP_SPINCOUNT": "7"})


def test_the_openmp_of_torch_reads_it() -> None:
    """GNU's prints what it read, as hexadecimal or decimal figures of its version."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP"))}
    environment |= openmp.variables(2, environment) | {"OMP_DISPLAY_ENV": "verbose"}
    asked = "import torch; print(torch.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2"
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr


def test_a_container_that_hides_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOAD", tmp_path / "loadavg")
    assert free_cores() == os.cpu_count()
    (tmp_path / "loadavg").write_text("0.00 0.00\n")
    assert free_cores() == os.cpu_count()
