"""What tests of the health loop share: readings, a small task, and actions on a real file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sovl_daemon.control.action import Effect
from sovl_daemon.control.guard import Limit, Pace
from sovl_daemon.control.metric import Fault, Reading
from sovl_daemon.control.task import Described, Rung, Task

MEMORY = "memory.percent"
GAUGES = (
    "kv_cache.bytes",
    "queue.depth",
    "tokens.rate",
    "latency.first_token_s",
    "errors.rate",
    "training.loss",
    "training.loss_ratio",
    "training.gradient_norm",
)
"""What agents give, as the shipped tasks know it."""


def reading(
    value: float, *, name: str = MEMORY, per_min: float = 0.0, fault: Fault = ""
) -> Reading:
    return Reading(name, value, 0.0, per_min, fault)


def readings(value: float, *, per_min: float = 0.0, fault: Fault = "") -> Mapping[str, Reading]:
    return {MEMORY: reading(value, per_min=per_min, fault=fault)}


LIMIT = Limit(metric=MEMORY, hard=92, grey=75, low=65, hard_s=0.5, grey_s=2, low_s=10)
PACE = Pace(dwell_s=60, cooldown_s=10, urgent_s=1, ask_every_s=5, per_hour=20)


def task(**changes: object) -> Task:
    """A task with one metric and three actions."""
    described = Described.model_validate(
        {
            "name": MEMORY,
            "unit": "%",
            "high": 100,
            "label": "Memory usage",
            "levels": [
                {"from": 0, "word": "low"},
                {"from": 75, "word": "high"},
                {"from": 92, "word": "critical"},
            ],
        }
    )
    values: dict[str, object] = {
        "name": "memory",
        "title": "memory health",
        "about": "Memory may run out.",
        "decide": "Decide if adjustments are needed.",
        "deadline_s": 2.0,
        "abstain": 0.1,
        "metrics": (described,),
        "limits": (LIMIT,),
        "ladder": (
            Rung(action="clear", when="first", lasting=False, relief={MEMORY: 2}),
            Rung(action="shrink", when="then", relief={MEMORY: 5}),
            Rung(action="quantize", when="last", relief={MEMORY: 20}),
        ),
        "pace": PACE,
    }
    return Task.model_validate(values | changes)


class FileAction:
    """Sets a word in a file, and measures the size of another file that stands for memory.

    `lies`: it reports success and frees nothing. Written in place, so that a kill in between
    leaves half a word.
    """

    time_to_live_s: float | None = 60.0

    def __init__(
        self, folder: Path, name: str = "quantize", target: str = "int8", *, lies: bool = False
    ) -> None:
        self.name, self.target, self.lies = name, target, lies
        self.setting, self.memory = folder / "setting", folder / "memory"
        self.refusal: str | None = None
        self.wrong: str | None = None
        self.saved: str | None = None
        self.within_s = 0.2

    async def refuse(self) -> str | None:
        return self.refusal

    async def predict(self) -> Effect:
        return Effect(1000.0, within_s=self.within_s)

    async def current(self) -> str:
        return self.setting.read_text()

    async def measure(self) -> float:
        return float(self.memory.stat().st_size)

    async def apply(self) -> None:
        self._set(self.target)
        if not self.lies:
            self.memory.write_bytes(b"x" * 1000)

    async def verify(self) -> str | None:
        return self.wrong

    async def stays(self) -> str | None:
        return self.saved

    async def revert(self, before: str) -> None:
        self._set(before)
        self.memory.write_bytes(b"x" * 2000)

    def _set(self, word: str) -> None:
        with self.setting.open("w") as file:
            for letter in word:
                file.write(letter)
                file.flush()


def prepare(folder: Path) -> None:
    """The state before any action."""
    (folder / "setting").write_text("float16")
    (folder / "memory").write_bytes(b"x" * 2000)
