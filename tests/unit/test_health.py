"""What the health monitor publishes is what the controller reads."""

import math
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from agents.control.health import Health, readings_of, sampled
from bus.topics import HEALTH, MetricsSample
from config import Paths, Settings, with_value
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.sources.process_tree import ProcessTree
from sovl_daemon.testing import PATIENCE_S
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


async def test_another_interval_holds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_value(Settings(), "health.interval_s", "3600")
    health = Health(settings, Paths.of(settings), "hub")
    told = anyio.create_memory_object_stream[str](10)

    async def publish(topic: str, payload: Any, *, retain: bool = False) -> None:
        await told[0].send(topic)

    async def sample(now_s: float) -> None:
        health._interval_s = 0.01

    monkeypatch.setattr(health, "publish", publish)
    monkeypatch.setattr(health, "_sample", sample)
    health._health_sampler = SimpleNamespace(sample=lambda *_: None)  # type: ignore[assignment]
    health._sampler = SimpleNamespace(values={})  # type: ignore[assignment]
    health._gpus = SimpleNamespace(cards=())  # type: ignore[assignment]
    health._trees = ProcessTree({})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(health.run)
        with anyio.fail_after(PATIENCE_S):
            assert await told[1].receive() == HEALTH
            health.settings = with_value(settings, "health.interval_s", "0.1")
            assert await told[1].receive() == HEALTH
        tasks.cancel_scope.cancel()
