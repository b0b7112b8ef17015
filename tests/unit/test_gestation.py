"""What gestation makes of its knobs, without a daemon."""

from typing import Any

import anyio
import pytest

from agents.gestation import Gestation
from config import Paths, Settings, with_value
from sovl_daemon.mind.sleep import longest_night


class Trainer:
    """Stands for the link to a trainer, and notes what it was asked."""

    def __init__(self) -> None:
        self.caller = self
        self.asked: list[str] = []

    def call(self, command: str, args: dict[str, Any]) -> "Trainer":
        self.asked.append(command)
        return self

    async def __aenter__(self) -> "Trainer":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def __aiter__(self) -> "Trainer":
        return self

    async def __anext__(self) -> None:
        raise StopAsyncIteration

    async def result(self) -> dict[str, Any]:
        return {"learned": 10}


async def night(monkeypatch: pytest.MonkeyPatch, *, trains: str) -> tuple[int, Trainer, float]:
    """What a night learns, the trainer that was asked or not, and how long it just sleeps."""
    settings = with_value(Settings(), "enable_sleep_training", trains)
    gestation = Gestation(settings, Paths.of(settings), "hub")
    await gestation.start()
    gestation._entries = 10
    trainer = Trainer()
    gestation._link = trainer  # type: ignore[assignment]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    return (await gestation._learn(None))["learned"], trainer, sum(slept)


async def test_it_trains_while_it_sleeps_unless_told_not_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learned, trainer, slept = await night(monkeypatch, trains="true")
    assert (learned, trainer.asked, slept) == (10, ["learn_night"], 0)
    learned, trainer, slept = await night(monkeypatch, trains="false")
    assert (learned, trainer.asked) == (0, [])
    assert slept == longest_night(10, Settings().controls_config)
