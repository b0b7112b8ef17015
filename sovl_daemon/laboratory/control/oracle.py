"""The bound: a controller that knows the future, because it can live it before."""

from __future__ import annotations

from collections.abc import Mapping

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.task import Task
from sovl_daemon.laboratory.control.baselines import Baseline
from sovl_daemon.laboratory.control.faults import SLOWEST_S
from sovl_daemon.laboratory.control.plant import LASTING, Plant

_AHEAD_S = 25.0
_QUIET_S = 150.0
_MARGIN_S = 1.0
_LOOK_S = 1.0


class Oracle(Baseline):
    """Acts only when the machine would otherwise run out within 25 s; takes back what it will not
    need for 150 s.

    Hindsight, not a possible controller. It is greedy, so a better one may exist.
    """  # noqa: D205 - two rules

    def __init__(self, task: Task, plant: Plant) -> None:
        super().__init__(task)
        self._plant = plant
        self._looked_s = -_LOOK_S

    def wants(self, now_s: float, readings: Mapping[str, Reading]) -> int:
        """Live on in copies of the plant."""
        if now_s - self._looked_s < _LOOK_S:
            return 0
        self._looked_s = now_s
        if self._dies(_AHEAD_S):
            return 1
        top = self.ladder.top()
        return -1 if top is not None and not self._dies(_QUIET_S, without=top.action) else 0

    def _dies(self, ahead_s: float, without: str = "") -> bool:
        future = self._plant.copy()
        known = len(future.ooms)
        if without in LASTING:
            future.land(without, False, 0.0)
        # A relaxation must leave the time that acting again would take.
        future.advance(self._plant.now_s + ahead_s + (SLOWEST_S + _MARGIN_S if without else 0.0))
        return len(future.ooms) > known
