"""The ladder of a task's actions: which one is next, and which one goes back first."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from sovl_daemon.control.task import Rung


class Ladder:
    """Which rungs are in force, and when those that leave nothing were last done."""

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self._rungs = tuple(rungs)
        self._names = [rung.action for rung in rungs]
        self._done_s: dict[str, float] = {}
        self._relieved: dict[str, dict[str, float]] = {}
        self.in_force: list[str] = []

    def __contains__(self, action: str) -> bool:
        return action in self._names

    def rung(self, action: str) -> Rung:
        """The rung of an action. Raises ValueError for one that is not on the ladder."""
        return self._rungs[self._names.index(action)]

    def climb(
        self,
        now_s: float,
        unavailable: Collection[str] = (),
        *,
        needed: Mapping[str, float] | None = None,
        recommended: str = "",
    ) -> Rung | None:
        """The next action, or None if none is left.

        The recommended one if it is free; else the cheapest that is expected to lower each metric
        of `needed` by that much, or the strongest if none can; the cheapest without a need.
        """
        free = [rung for rung in self._rungs if self._is_free(rung, now_s, unavailable)]
        for rung in free:
            if rung.action == recommended:
                return rung
        if not free or not needed:
            return free[0] if free else None
        enough = (rung for rung in free if _share(rung, needed) >= 1)
        return next(enough, None) or max(free, key=lambda rung: _share(rung, needed))

    def top(self) -> Rung | None:
        """What is relaxed first: the latest in force, for it was set on top of the others."""
        return self.rung(self.in_force[-1]) if self.in_force else None

    def relief(self) -> Mapping[str, float] | None:
        """By how much what is relaxed first lowers which metrics; None if nothing is in force.

        What was measured when it was done, or what was expected if that is more: it may hold back
        more by now.
        """
        top = self.top()
        if top is None:
            return None
        measured = self._relieved.get(top.action, {})
        return {name: max(amount, measured.get(name, 0.0)) for name, amount in top.relief.items()}

    def relieved(self, action: str, relief: Mapping[str, float]) -> None:
        """Note by how much metrics fell when an action was done."""
        self._relieved[action] = dict(relief)

    def done(self, now_s: float, action: str) -> None:
        """Note that an action was committed."""
        self._done_s[action] = now_s
        if self.rung(action).lasting and action not in self.in_force:
            self.in_force.append(action)

    def failed(self, now_s: float, action: str) -> None:
        """Note that an action was refused or reverted: others come first for a while."""
        self._done_s[action] = now_s

    def gone(self, action: str) -> None:
        """Note that an action is no longer in force."""
        if action in self.in_force:
            self.in_force.remove(action)

    def _is_free(self, rung: Rung, now_s: float, unavailable: Collection[str]) -> bool:
        if rung.action in self.in_force or rung.action in unavailable:
            return False
        if rung.lasting and rung.action not in self._done_s:
            return True
        since_s = now_s - self._done_s.get(rung.action, -math.inf)
        return since_s >= (_TRY_AGAIN_S if rung.lasting else rung.again_s)


_TRY_AGAIN_S = 10.0  # an action that refused, or was just relaxed, is not tried at every sample


def _share(rung: Rung, needed: Mapping[str, float]) -> float:
    """The least share of the needs that the rung is expected to meet."""
    return min(rung.relief.get(metric, 0.0) / amount for metric, amount in needed.items())
