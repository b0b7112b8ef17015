"""What the generator counts."""

import pytest

from agents.generator.meter import WINDOW_S, Meter


def test_a_fresh_one_is_all_zero() -> None:
    assert set(Meter().gauges(0.0).values()) == {0.0}


def test_rates_are_of_the_last_minute() -> None:
    meter = Meter()
    meter.answered(0.0, 30, 0.5)
    meter.answered(10.0, 90, 2.0)
    meter.failed(20.0)
    found = meter.gauges(30.0)
    assert found["tokens.rate"] == 120 / WINDOW_S
    assert found["errors.rate"] == pytest.approx(100 / 3)
    assert found["latency.first_token_s"] == 2.0
    assert set(meter.gauges(81.0).values()) == {0.0}
