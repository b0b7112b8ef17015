"""What the health monitor publishes is what the controller reads."""

import math

from agents.health import readings_of, sampled
from bus.topics import MetricsSample
from sovl_daemon.control.metric import Reading
from tests.control import MEMORY, task


def test_readings_come_through_whole() -> None:
    sent = {MEMORY: Reading(MEMORY, 87.0, 99.0, 2.0)}
    sample = MetricsSample(
        time_s=100.0, interval_s=1.0, tasks={"memory": sampled(task(), sent, 100.0)}
    )
    published = sample.tasks["memory"][MEMORY]
    assert (published.unit, published.low, published.high) == ("%", 0, 100)
    assert (published.age_s, published.fresh_s, published.fault) == (1.0, 3.0, "")
    received = MetricsSample.model_validate_json(sample.model_dump_json())
    assert readings_of(received) == {"memory": sent}


def test_a_fault_has_no_value() -> None:
    sent = {MEMORY: Reading(MEMORY, math.nan, 99.0, 0.0, "stale")}
    sample = MetricsSample(
        time_s=100.0, interval_s=1.0, tasks={"memory": sampled(task(), sent, 100.0)}
    )
    assert sample.tasks["memory"][MEMORY].value is None
    (reading,) = readings_of(sample)["memory"].values()
    assert reading.fault == "stale"
    assert math.isnan(reading.value)
