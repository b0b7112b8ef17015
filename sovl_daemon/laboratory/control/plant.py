"""The plant: a machine's memory as a discrete-event process.

Between events everything grows or stands still, so what is in use is highest right before the next
event: running out of memory is found exactly, however seldom one looks.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import NamedTuple

from sovl_daemon.laboratory.control.scenario import Disturbance, Scenario

CAPACITY = 100.0
DOWN_S = 20.0
"""How long a host that was killed takes to be back."""

SHORT_CONTEXT = 0.5
INT8 = 0.5
LASTING = ("limit_admission", "shrink_context", "quantize_int8", "offload_weights")


class _Landing(NamedTuple):
    """An effect that shows at `time_s`: a setting, the clearing of caches, or a restart."""

    time_s: float
    number: int
    what: str
    on: bool


@dataclass(slots=True)
class _Line:
    """A value that changes evenly: `at` time 0 plus `slope` times the time."""

    at: float = 0.0
    slope: float = 0.0

    def bend(self, time_s: float, by: float) -> None:
        """Change the slope from a moment on."""
        self.at -= by * time_s
        self.slope += by

    def value(self, time_s: float) -> float:
        return self.at + self.slope * time_s


class Plant:
    """A machine living through a scenario. `advance` it, look at it, and act on it.

    With `mortal` False it never runs out of memory: what would be in use if memory had no end.
    """

    def __init__(self, scenario: Scenario, *, mortal: bool = True) -> None:
        self.scenario = scenario
        self._mortal = mortal
        self._events = scenario.events
        self._index = 0
        self._landings: list[_Landing] = []
        self._number = 0
        self._others, self._leak, self._kv = _Line(scenario.base), _Line(), _Line()
        self._conversations: dict[int, tuple[float, float]] = {}
        self._cache_at, self._cached = 0.0, 0.0
        self._up = True
        self._known, self._known_s = 0.0, math.nan
        self.now_s = 0.0
        self.settings: set[str] = set()
        self.ooms: list[float] = []

    def copy(self, *, mortal: bool = True) -> Plant:
        """Another plant in the same state, with the same future."""
        other = Plant.__new__(Plant)
        other.__dict__.update(self.__dict__)
        other._mortal = mortal
        other._landings = self._landings[:]
        other._others, other._leak, other._kv = (
            _Line(each.at, each.slope) for each in (self._others, self._leak, self._kv)
        )
        other._conversations = self._conversations.copy()
        other.settings, other.ooms = self.settings.copy(), self.ooms[:]
        return other

    # What can be seen

    def used(self) -> float:
        """Memory in use now, in percent of the capacity."""
        if self._known_s != self.now_s:  # asked several times a sample
            self._known, self._known_s = self._sum(), self.now_s
        return self._known

    def _sum(self) -> float:
        now_s = self.now_s
        others = self._others
        total = others.at + others.slope * now_s
        if not self._up:
            return total
        leak = self._leak
        return total + leak.at + leak.slope * now_s + self.weights() + self.kv() + self.cached()

    def kv(self) -> float:
        """What conversations hold."""
        held = self._kv.at + self._kv.slope * self.now_s
        return held * SHORT_CONTEXT if "shrink_context" in self.settings else held

    def weights(self) -> float:
        """What the weights take."""
        if not self._up or "offload_weights" in self.settings:
            return 0.0
        return self.scenario.weights * (INT8 if "quantize_int8" in self.settings else 1.0)

    def cached(self) -> float:
        """What caches hold: they fill again after they were cleared."""
        if not self._up:
            return 0.0
        passed_s = self.now_s - self._cache_at
        empty = self.scenario.cache - self._cached
        return self.scenario.cache - empty * math.exp(-passed_s / self.scenario.cache_s)

    def pressure(self) -> float:
        """The share of time that tasks wait for memory, in percent."""
        short = self.used() - 88.0
        return min(100.0, 0.6 * short * short) if short > 0 else 0.0

    def measure(self, action: str) -> float:
        """What an action is to lower, as measured from outside."""
        if action == "clear_caches":
            return self.cached()
        if action == "shrink_context":
            return self.kv()
        if action in ("quantize_int8", "offload_weights"):
            return self.weights()
        return 0.0 if action in self.settings else 1.0

    def predict(self, action: str) -> float:
        """What an action says it will lower that by."""
        share = {"clear_caches": 0.9, "shrink_context": 0.5, "quantize_int8": 0.5}.get(action, 1.0)
        return share * self.measure(action)

    # What can be done

    def land(self, what: str, on: bool, delay_s: float) -> None:
        """Let an action's effect show after a delay; `on` False takes a setting back."""
        self._number += 1
        heapq.heappush(self._landings, _Landing(self.now_s + delay_s, self._number, what, on))

    def advance(self, time_s: float) -> None:
        """Live on until a moment."""
        events, index = self._events, self._index
        while True:
            event_s = events[index].time_s if index < len(events) else math.inf
            landing_s = self._landings[0].time_s if self._landings else math.inf
            if min(event_s, landing_s) > time_s:
                break
            self._reach(min(event_s, landing_s))
            if landing_s < event_s:
                self._take_effect(heapq.heappop(self._landings))
            else:
                self._happen(events[index])
                index += 1
        self._index = index
        self._reach(time_s)

    def _reach(self, time_s: float) -> None:
        self.now_s = time_s
        if self._up and self._mortal and self.used() > CAPACITY:
            self._known_s = math.nan
            self.ooms.append(self.now_s)
            self._up = False
            self._leak, self._kv = _Line(), _Line()
            self._conversations.clear()
            self.settings.clear()
            self._landings.clear()
            self.land("restart", True, DOWN_S)

    def _take_effect(self, landing: _Landing) -> None:
        self._known_s = math.nan
        if landing.what == "restart":
            self._up, self._cache_at, self._cached = True, self.now_s, 0.0
        elif landing.what == "clear_caches" and landing.on:
            self._cached, self._cache_at = 0.1 * self.cached(), self.now_s
        elif landing.on:
            self.settings.add(landing.what)
        else:
            self.settings.discard(landing.what)

    def _happen(self, event: Disturbance) -> None:
        self._known_s = math.nan
        kind = event.kind
        if kind == "arrive":
            if self._up and "limit_admission" not in self.settings:
                self._conversations[event.number] = (event.time_s, event.amount)
                self._kv.bend(event.time_s, event.amount)
        elif kind == "leave":
            self._leave(event)
        elif kind == "slope":
            self._others.bend(event.time_s, event.amount)
        elif kind == "drop":
            self._others.at -= event.amount
        elif kind == "leak" and self._up:
            self._leak.bend(event.time_s, event.amount)
        elif kind == "leak ends":
            self._leak = _Line()

    def _leave(self, event: Disturbance) -> None:
        known = self._conversations.pop(event.number, None)
        if known is None:
            return  # it was never admitted, or was lost with the host
        begun_s, rate = known
        self._kv.bend(event.time_s, -rate)
        self._kv.at -= rate * (event.time_s - begun_s)
