"""The number of threads that takes least time now, on cores that others use too.

Threads share out a product and wait for the last of them, so one that lost its core to somebody
else holds up all: how many are best changes with every program that comes or goes. Nothing tells
but the time that steps take, so now and then some are taken with another number.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

_TRIES = 4  # steps of a trial with either number; a win is looked at twice as long
_LONG_S, _VERY_LONG_S = 0.5, 2.0  # half or a quarter of them where they take so long
_MOST_STEPS = 6 * _TRIES  # a trial whose steps are of too many sizes is given up
_HOPELESS = 2.0  # times as long: one step tells
_CLEARLY_LESS = 0.9  # of the time that the usual number takes, or nothing changes
_BETWEEN_S = 1.5  # trials, and...
_LOST = 0.05  # ...no more of the time than this is lost to the slower number
_LEAP, _LEAPS = 1.4, 3  # so many steps that take so many times as long, or as short: look at once
_SMOOTHING = 0.2
_STALE_S = 10.0  # what was found out before a pause of that length says nothing any more


@dataclass(slots=True)
class _Trial:
    """Steps with either number in turn; only those of one size are compared.

    `costs` are seconds a row, by size and number.
    """

    usual: int
    other: int
    costs: dict[int, dict[int, list[float]]] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0

    def turn(self) -> int:
        """Return whose turn it is: AB BA AB, so that a drift hits both."""
        return self.usual if self.steps % 4 in (0, 3) else self.other

    def add(self, size: int, cost: float, seconds: float) -> None:
        by_count = self.costs.setdefault(size, {self.usual: [], self.other: []})
        by_count[self.turn()].append(cost)
        self.seconds += seconds
        self.steps += 1

    @property
    def tries(self) -> int:
        return sum(min(map(len, each.values())) for each in self.costs.values())

    @property
    def is_enough(self) -> bool:
        usual, other = self._totals()
        if other > _HOPELESS * usual:
            return True
        tries = _TRIES
        if self.seconds >= _LONG_S:
            tries = _TRIES // (4 if self.seconds >= _VERY_LONG_S else 2)
        return self.tries >= tries * (2 if self.is_won else 1) or self.steps >= _MOST_STEPS

    @property
    def is_won(self) -> bool:
        usual, other = self._totals()
        return 0 < other < _CLEARLY_LESS * usual

    @property
    def lost(self) -> float:
        """Seconds that it took longer than with the better number alone."""
        usual, other = self._totals()
        share = abs(other - usual) / (other + usual) if usual + other else 0.0
        return share * self.seconds

    def _totals(self) -> tuple[float, float]:
        usual = other = 0.0
        for each in self.costs.values():
            pairs = min(map(len, each.values()))
            if pairs:
                usual += pairs * fmean(each[self.usual])
                other += pairs * fmean(each[self.other])
        return usual, other


class ThreadCount:
    """Follows the best number of threads for one kind of work.

    `free` tells how many cores nobody uses, for lack of better knowledge: at the beginning, and
    after a pause. Times are seconds of one clock that only goes on.
    """

    def __init__(self, free: Callable[[], int]) -> None:
        self.count = 0
        self._free = free
        self._most = 0
        self._trial: _Trial | None = None
        self._ideas: list[int] = []  # numbers to try, the next one last
        self._last = self._tried = 0.0  # ends of the last step and of the last trial
        self._worked = self._lost = 0.0  # since that trial, and in it
        self._usual: dict[int, float] = {}  # seconds a row with `count`, by size
        self._leaps: list[float] = []

    def choose(self, now: float, most: int) -> int:
        """Return how many threads the next step is to have, 1 to `most`."""
        if most != self._most or now - self._last > _STALE_S:
            self._begin(now, most)
        if self._trial is None and self._is_due(now):
            self._trial = self._next_trial()
        return self.count if self._trial is None else self._trial.turn()

    def took(self, now: float, rows: int, seconds: float) -> None:
        """Learn that the step which has just ended, with so many rows, took so long."""
        size, cost = rows.bit_length(), seconds / max(1, rows)
        self._last = now
        if self._trial is not None:
            self._trial.add(size, cost, seconds)
            if self._trial.is_enough:
                self._end(self._trial, now)
            return
        self._worked += seconds
        self._watch(size, cost)

    def _begin(self, now: float, most: int) -> None:
        self._most, self._trial = most, None
        self.count = max(each for each in _ladder(most) if each <= max(1, self._free()))
        self._tried, self._worked, self._lost = now, 0.0, 0.0
        self._forget()

    def _is_due(self, now: float) -> bool:
        if self._most == 1:
            return False
        if len(self._leaps) >= _LEAPS:
            return True
        return now - self._tried >= _BETWEEN_S and self._worked >= self._lost / _LOST

    def _next_trial(self) -> _Trial:
        if self._leaps:
            came = self._leaps[-1] > 1  # somebody, or else somebody went
            self._ideas = [*self._others(up=came), *self._others(up=not came)]
        self._leaps.clear()
        self._ideas = self._ideas or self._others(up=False) + self._others(up=True)
        return _Trial(self.count, self._ideas.pop())

    def _others(self, *, up: bool) -> list[int]:
        """Return what may be better: the next number, and upwards also all that there are.

        Beside many programs a part of each core may be more than all of the few that are free.
        """
        ladder = _ladder(self._most)
        at = ladder.index(self.count)
        if not up:
            return ladder[:at][-1:]
        return list(dict.fromkeys(ladder[at + 1 :][-1:] + ladder[at + 1 : at + 2]))

    def _end(self, trial: _Trial, now: float) -> None:
        won = trial.is_won
        self._trial, self._tried = None, now
        self._worked, self._lost = 0.0, 0.0 if won else trial.lost
        if not won:
            return
        self.count = trial.other
        self._forget()
        self._ideas = self._others(up=trial.other > trial.usual)
        if self._ideas:  # perhaps further that way it is better still
            self._tried -= _BETWEEN_S

    def _watch(self, size: int, cost: float) -> None:
        """Notice when steps take another time than they did."""
        change = cost / self._usual.setdefault(size, cost)
        if not 1 / _LEAP < change < _LEAP:
            self._leaps.append(change)
            if len(self._leaps) >= _LEAPS:
                self._usual = {size: cost}
            return
        self._leaps.clear()
        self._usual[size] *= 1 + _SMOOTHING * (change - 1)

    def _forget(self) -> None:
        self._usual.clear()
        self._leaps.clear()
        self._ideas.clear()


def _ladder(most: int) -> list[int]:
    """The numbers that are tried: half as many again each time, and one less than all."""
    counts = {1, max(1, most - 1), most}
    count = 1
    while (count := max(count + 1, count * 3 // 2)) < most:
        counts.add(count)
    return sorted(counts)
