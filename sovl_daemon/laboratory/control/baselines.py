"""What others do, on the same ladder and with the same transactions, without our guard."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from sovl_daemon.control.decision import Decision, Step
from sovl_daemon.control.executor import Outcome
from sovl_daemon.control.ladder import Ladder
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.task import Task
from sovl_daemon.control.verdict import JudgeQuestion, Opinion

MEMORY, PRESSURE = "memory.percent", "pressure.memory"
_HOLD = Step("hold")


class PlantController(Protocol):
    """Whatever may drive a plant: `Decider` does, and every baseline here."""

    @property
    def ladder(self) -> Ladder:
        """What is in force."""
        ...

    @property
    def busy(self) -> bool:
        """Whether an action is in flight."""
        ...

    def sense(
        self,
        now_s: float,
        readings: Mapping[str, Reading],
        *,
        log_lines: Sequence[str] = (),
        unavailable: Mapping[str, str] | None = None,
    ) -> Step:
        """Take readings and say what to do."""
        ...

    def answered(self, now_s: float, question: JudgeQuestion, opinion: Opinion | None) -> Step:
        """Take an opinion that was asked for."""
        ...

    def performed(self, now_s: float, outcome: Outcome) -> Decision | None:
        """Take what came of a proposal."""
        ...

    def gone(self, action: str) -> None:
        """Learn that an action is no longer in force."""
        ...


class Baseline:
    """What all baselines share; `wants` says +1 for an action, -1 for taking one back, else 0."""

    def __init__(self, task: Task) -> None:
        self.ladder = Ladder(task.ladder)
        self.busy = False
        self.acted_s = -math.inf

    def wants(self, now_s: float, readings: Mapping[str, Reading]) -> int:
        """Nothing, ever."""
        return 0

    def sense(
        self,
        now_s: float,
        readings: Mapping[str, Reading],
        *,
        log_lines: Sequence[str] = (),
        unavailable: Mapping[str, str] | None = None,
    ) -> Step:
        """Propose the cheapest next action, or the last one back."""
        wanted = 0 if self.busy else self.wants(now_s, readings)
        rung = None
        if wanted > 0:
            rung = self.ladder.climb(now_s, unavailable or {})
        elif wanted < 0:
            rung = self.ladder.top()
        if rung is None:
            return _HOLD
        self.busy = True
        return Step("act" if wanted > 0 else "relax", rung.action)

    def answered(self, now_s: float, question: JudgeQuestion, opinion: Opinion | None) -> Step:
        """It never asks."""
        return _HOLD

    def performed(self, now_s: float, outcome: Outcome) -> None:
        """Note what came of it."""
        self.busy = False
        self.acted_s = now_s
        if outcome.result == "committed":
            self.ladder.done(now_s, outcome.action)
        elif outcome.action in self.ladder.in_force:
            self.ladder.gone(outcome.action)
        else:
            self.ladder.failed(now_s, outcome.action)

    def gone(self, action: str) -> None:
        """Forget what is no longer in force."""
        self.ladder.gone(action)


def _value(readings: Mapping[str, Reading], name: str) -> float:
    reading = readings.get(name)
    return math.nan if reading is None or reading.fault else reading.value


class Threshold(Baseline):
    """Acts at or above 85 % of memory, takes back below: no hysteresis, as in a first script."""

    relax_below = 85.0

    def wants(self, now_s: float, readings: Mapping[str, Reading]) -> int:
        """Compare."""
        memory = _value(readings, MEMORY)
        return 1 if memory >= 85.0 else -1 if memory < self.relax_below else 0


class Hysteresis(Threshold):
    """Acts at or above 85 %, takes back below 70 %."""

    relax_below = 70.0


class Oomd(Baseline):
    """As systemd-oomd: pressure above a limit for a duration, then a delay after each action.

    20 % for 5 s and 15 s of delay; 60 s without pressure take an action back.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._high_s = self._none_s = math.inf

    def wants(self, now_s: float, readings: Mapping[str, Reading]) -> int:
        """Look at the pressure alone."""
        pressure = _value(readings, PRESSURE)
        self._high_s = min(self._high_s, now_s) if pressure >= 20.0 else math.inf
        self._none_s = min(self._none_s, now_s) if pressure < 1.0 else math.inf
        if now_s - self.acted_s < 15.0:
            return 0
        if now_s - self._high_s >= 5.0:
            return 1
        return -1 if now_s - self._none_s >= 60.0 else 0


class Hpa(Baseline):
    """As the Kubernetes autoscaler: up at once, down by the highest wish of the last 300 s.

    The target is 75 % with a tolerance of a tenth; it looks every 15 s.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._looked_s = -math.inf
        self._wishes: deque[tuple[float, int]] = deque()

    def wants(self, now_s: float, readings: Mapping[str, Reading]) -> int:
        """Compare the wish with what is in force."""
        memory = _value(readings, MEMORY)
        if now_s - self._looked_s < 15.0 or math.isnan(memory):
            return 0
        self._looked_s = now_s
        wish = 1 if memory > 82.5 else -1 if memory < 67.5 else 0
        self._wishes.append((now_s, wish))
        while self._wishes[0][0] < now_s - 300.0:
            self._wishes.popleft()
        highest = max(wish for _, wish in self._wishes)
        return wish if wish >= 0 else min(0, highest)
