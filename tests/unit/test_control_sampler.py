"""A round of samples: each task gets its own readings, checked."""

import time
from pathlib import Path

import pytest

from sovl_daemon.control.diagnosis import diagnose
from sovl_daemon.control.metric_sampler import EDGE_S, STABILITY, URGENT_S, MetricSampler
from sovl_daemon.control.sources.gauges import Gauges
from sovl_daemon.control.sources.gpu import Gpus
from sovl_daemon.control.sources.machine import Machine
from sovl_daemon.control.sources.pressure import Pressure
from sovl_daemon.control.sources.source import Values
from sovl_daemon.control.task_file import load_tasks
from tests.control import GAUGES, MEMORY


class Fixed:
    """A source that says what it is told."""

    def __init__(self, values: Values) -> None:
        self.values = values

    def read(self) -> Values:
        return self.values


def sampler(source: Fixed, gauges: Gauges | None = None) -> MetricSampler:
    return MetricSampler(load_tasks().values(), [source], gauges or Gauges())


def test_the_machine_for_real(tmp_path: Path) -> None:
    tasks = load_tasks()
    real = MetricSampler(tasks.values(), [Machine(tmp_path), Pressure(), Gpus()], Gauges())
    for n in range(3):
        found = real.sample(time.monotonic() + n, time.time() + n)
    assert found["memory"][MEMORY].fault == ""
    assert found["memory"][STABILITY].value > 0.5
    assert set(found) == set(tasks)
    assert EDGE_S <= real.interval_s(found) <= 1
    merged = {name: reading for each in found.values() for name, reading in each.items()}
    assert diagnose(tasks.values(), merged).findings


def test_what_was_never_there_is_left_out_and_what_is_gone_is_a_fault() -> None:
    source = Fixed({MEMORY: 50.0, "pressure.memory": None})
    one = sampler(source)
    assert set(one.sample(0, 1000)["memory"]) == {MEMORY, STABILITY}
    source.values = {}
    assert one.sample(1, 1001)["memory"][MEMORY].fault == "missing"


def test_a_source_that_fails_is_one_that_says_nothing() -> None:
    class Broken:
        well = False

        def read(self) -> Values:
            if not self.well:
                raise RuntimeError("no such sensor")
            return {"cpu.percent": 7.0}

    broken = Broken()
    one = MetricSampler(load_tasks().values(), [broken, Fixed({MEMORY: 50.0})], Gauges())
    assert one.sample(0, 1000)["memory"][MEMORY].value == 50
    assert one.failures == {"Broken": "RuntimeError: no such sensor"}
    broken.well = True
    one.sample(1, 1001)
    assert (one.failures, one.values["cpu.percent"]) == ({}, 7.0)


def test_a_gauge_grows_stale_by_its_own_time() -> None:
    gauges = Gauges()
    one = sampler(Fixed({}), gauges)
    gauges.give("queue.depth", 3, 0.0)
    assert one.sample(2, 1002)["latency"]["queue.depth"].fault == ""
    assert one.sample(4, 1004)["latency"]["queue.depth"].fault == "stale"


def test_a_jump_of_the_wall_clock_marks_the_round_and_no_more() -> None:
    source = Fixed({MEMORY: 50.0})
    one = sampler(source)
    walls = (1000.0, 1001.0, 5000.0, 5001.0)
    found = [one.sample(float(n), wall)["memory"][MEMORY] for n, wall in enumerate(walls)]
    assert [each.fault for each in found] == ["", "", "clock jump", ""]


def test_it_looks_often_near_a_limit_or_blind() -> None:
    source = Fixed({MEMORY: 50.0, "pressure.memory": 0.0})
    one = sampler(source)
    intervals = []
    for n, memory in enumerate((50.0, 88.0, 95.0, float("nan"))):
        source.values = {MEMORY: memory, "pressure.memory": 0.0}
        intervals.append(round(one.interval_s(one.sample(float(n), 1000.0 + n)), 3))
    assert intervals == [1, 0.25, EDGE_S, 0.1]
    source.values = {MEMORY: 50.0, "pressure.memory": 12.0}
    assert one.interval_s(one.sample(5.0, 1005.0)) == 0.1


def test_an_idle_daemon_is_looked_at_once_a_second() -> None:
    gauges = Gauges()
    source = Fixed({MEMORY: 50.0, "pressure.memory": 0.0})
    one = sampler(source, gauges)
    for name in GAUGES:
        gauges.give(name, 1.0 if name == "training.loss_ratio" else 0.0, 0.0)
    assert one.interval_s(one.sample(0.0, 1000.0)) == 1
    # Nobody answers, and the night is over: their gauges are stale, and that is no emergency.
    source.values = {MEMORY: 51.0, "pressure.memory": 0.0}
    assert one.interval_s(one.sample(500.0, 1500.0)) == 1
    gauges.give("latency.first_token_s", 29.9, 501.0)
    assert one.interval_s(one.sample(501.0, 1501.0)) == pytest.approx(
        0.2
    )  # its duration is two seconds


def test_a_long_duration_is_no_reason_to_look_often() -> None:
    source = Fixed({MEMORY: 50.0, "pressure.memory": 0.0, "pressure.cpu": 79.9})
    one = sampler(source)
    for now_s, pressed in ((0.0, 79.9), (1.0, 90.0), (30.0, 90.0)):
        source.values = {**source.values, "pressure.cpu": pressed}
        assert one.interval_s(one.sample(now_s, 1000.0 + now_s)) == 1


def test_interventions_lower_the_stability_of_their_task() -> None:
    one = sampler(Fixed({MEMORY: 50.0, "cpu.percent": 5.0}))
    one.sample(0, 1000)
    one.acted("memory", 0.5)
    assert one.sample(1, 1001)["memory"][STABILITY].value < 1


def test_it_looks_at_the_very_end_of_a_hard_limits_duration() -> None:
    task = load_tasks()["memory"]
    limit = next(each for each in task.limits if each.metric == MEMORY)
    limit = limit.model_copy(update={"hard_s": 0.32})
    source = Fixed({MEMORY: limit.hard, "pressure.memory": 0.0})
    one = MetricSampler([task.model_copy(update={"limits": (limit,)})], [source], Gauges())
    start_s = now_s = 10.0
    while now_s - start_s < limit.hard_s:
        found = one.sample(now_s, 1000 + now_s)
        assert 0 < one.interval_s(found) <= limit.hard_s / 10
        now_s += one.interval_s(found)
    assert now_s - start_s - limit.hard_s < 0.002
    assert one.interval_s(one.sample(now_s, 1000 + now_s)) == pytest.approx(URGENT_S)  # it is over
