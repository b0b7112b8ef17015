"""The number of threads that takes least time now, on cores that others use too.

Threads share out a product and wait for the last of them, so one that lost its core to somebody
else holds up all: how many are best changes with every program that comes or goes. Nothing tells
but the time that steps take, so now and then some are taken with another number.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

_TURN_S = 0.1  # a trial lets either number have so long in turn, or one step
_TURNS = 4  # AB BA, so that a drift hits both; a win is looked at twice as long
_LONG_S = 2.0  # half of them where they take so long
_CLEAR = 2.0  # times as long: that is enough to know
_CLEARLY_LESS = 0.9  # of the time that the usual number takes, or nothing changes
_BETWEEN_S = 1.5  # trials, and...
_LOST = 0.03  # ...no more of the time than this is lost to the slower number...
_LOST_TO_SIGNS = 0.1  # ...or than this where something seems to have changed
_CHANGED = 1.3  # times as long, or as short: steps of late against those before
_LATE_S, _BEFORE_S = 0.2, 3.0  # time constants of the two means; a step weighs...
_LATE_SHARE, _BEFORE_SHARE = 0.25, 0.1  # ...no more than this in them,
_OUTLIER = 2.0  # and counts as no more than so many times as long: one stall is no change
_ROOM = 0.5  # cores that nobody uses: somebody left, more threads may be of use
_STALE_S = 10.0  # what was found out before a pause of that length says nothing any more


@dataclass(slots=True)
class _Trial:
    """Some steps with either number in turn; only those of one size are compared.

    `costs` are seconds a row, by size and number. The first step of a turn is not among them where
    more than a few follow: threads that are new have to find a core first.
    """

    usual: int
    other: int
    costs: dict[int, dict[int, list[float]]] = field(default_factory=dict)
    seconds: float = 0.0
    turns: int = 0
    _in_turn_s: float = 0.0

    def turn(self) -> int:
        """Return whose turn it is."""
        return self.usual if self.turns % 4 in (0, 3) else self.other

    def add(self, size: int, cost: float, seconds: float) -> None:
        if self._in_turn_s or seconds >= _TURN_S / 8:
            by_count = self.costs.setdefault(size, {self.usual: [], self.other: []})
            by_count[self.turn()].append(cost)
        self.seconds += seconds
        self._in_turn_s += seconds
        if self._in_turn_s >= _TURN_S:
            self.turns, self._in_turn_s = self.turns + 1, 0.0

    @property
    def is_enough(self) -> bool:
        usual, other = self._totals()
        if other > _CLEAR * usual or (self.turns > 1 and usual > _CLEAR * other):
            return True
        turns = _TURNS if self.seconds < _LONG_S else _TURNS // 2
        return self.turns >= turns * (2 if self.is_won else 1)

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

    `free` tells how many cores nobody uses at this moment, for lack of better knowledge: at the
    beginning, and after a pause; `idle` how many nobody used of late. Times are seconds of one
    clock that only goes on.
    """

    def __init__(self, free: Callable[[], int], idle: Callable[[float], float]) -> None:
        self.count = 0
        self._free, self._idle = free, idle
        self._max_count = 0
        self._trial: _Trial | None = None
        self._ideas: list[int] = []  # numbers to try, the next one last
        self._last = self._tried = 0.0  # ends of the last step and of the last trial
        self._worked = self._lost = 0.0  # since that trial, and in it
        self._before: dict[int, float] = {}  # mean seconds a row with `count`, by size...
        self._late: dict[int, float] = {}  # ...and of late
        self._change = 0.0  # how many times as long they take now, once it is clear
        self._had_room = True  # for more threads, when more were tried

    def choose(self, now: float, max_count: int) -> int:
        """Return how many threads the next step is to have, 1 to `max_count`."""
        if max_count != self._max_count or now - self._last > _STALE_S:
            self._begin(now, max_count)
        if self._trial is None and self._is_due(now):
            self._trial = self._next_trial(now)
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
        self._watch(size, cost, seconds)

    def _begin(self, now: float, max_count: int) -> None:
        self._max_count, self._trial = max_count, None
        self.count = max(each for each in _ladder(max_count) if each <= max(1, self._free()))
        self._tried, self._worked, self._lost = now, 0.0, 0.0
        self._had_room = True
        self._forget()

    def _is_due(self, now: float) -> bool:
        if self._max_count == 1:
            return False
        if self._change or self._has_new_room(now):
            return self._worked >= self._lost / _LOST_TO_SIGNS
        return now - self._tried >= _BETWEEN_S and self._worked >= self._lost / _LOST

    def _has_new_room(self, now: float) -> bool:
        has_room = self.count < self._max_count and self._idle(now) >= _ROOM
        self._had_room = self._had_room and has_room
        return has_room and not self._had_room

    def _next_trial(self, now: float) -> _Trial:
        new_room = self._has_new_room(now)
        if self._change or new_room:
            up = new_room or self._change < 1  # who came leaves fewer cores
            self._ideas = [*self._others(up=not up), *self._others(up=up)]
        self._change, self._had_room = 0.0, self._had_room or new_room
        self._ideas = self._ideas or self._others(up=False) + self._others(up=True)
        return _Trial(self.count, self._ideas.pop())

    def _others(self, *, up: bool) -> list[int]:
        """Return what may be better: the next number, and upwards also all that there are.

        Beside many programs a part of each core may be more than all of the few that are free.
        """
        ladder = _ladder(self._max_count)
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

    def _watch(self, size: int, cost: float, seconds: float) -> None:
        """Notice when steps take another time than they did."""
        before = self._before.setdefault(size, cost)
        late = self._late.setdefault(size, cost)
        cost = min(max(cost, late / _OUTLIER), late * _OUTLIER)
        self._late[size] += min(_LATE_SHARE, seconds / _LATE_S) * (cost - late)
        self._before[size] += min(_BEFORE_SHARE, seconds / _BEFORE_S) * (cost - before)
        change = self._late[size] / self._before[size]
        if not 1 / _CHANGED < change < _CHANGED:
            self._change = change
            self._before = {size: self._late[size]}
            self._late = dict(self._before)

    def _forget(self) -> None:
        self._before.clear()
        self._late.clear()
        self._ideas.clear()
        self._change = 0.0


def _ladder(max_count: int) -> list[int]:
    """The numbers that are tried: half as many again each time, and one less than all."""
    counts = {1, max(1, max_count - 1), max_count}
    count = 1
    while (count := max(count + 1, count * 3 // 2)) < max_count:
        counts.add(count)
    return sorted(counts)
