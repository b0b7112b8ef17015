"""The guard: what is certain is ruled without a judge, what is doubtful is put to it.

Hysteresis with separate thresholds for acting and relaxing, each of which must hold for a while;
a dwell between opposite moves; a cool-down after each action; a limit an hour. Pure, on the times
it is given.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from sovl_daemon.control.declared import Declared, Mistake, Name, Seconds
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.ruling import Cause, Ruling
from sovl_daemon.control.trend import Slope

HOUR_S = 3600.0
_BLIND_S = 3.0  # readings may be faulty this long before what was seen earlier is forgotten
_MAX_PATIENCE = 4.0
_MAX_SILENCE = 4.0
_AHEAD_S = 30.0  # a metric that rises is expected to go on so long
_SOON_S = 6.0  # an action takes up to five seconds, and is rarely the only one
_NEARER = 0.1  # of the grey zone
_LEAP = 1 / 3  # of the grey zone, off the median of the last readings: it may be a wild one
_RECENT = 5  # readings, of which two wild ones do not move the median
_WILD = 2  # readings in a row that may be wild ones


class Limit(Declared):
    """The thresholds of one metric, in its unit: hard rule and grey zone.

    Attributes:
        metric: Name of the metric.
        hard: From here on, for `hard_s`, it is acted at once; None for never.
        grey: From here on, for `grey_s`, the judge is asked; None for never.
        low: It may be relaxed when every metric is here or better for `low_s`; None for always.
        spare: It may also be relaxed when the metric would stay so far out of its hard limit
            without the setting that goes back, for `low_s`; None for never.
        fatal: Where it is too late. A metric in the grey zone that rises so fast that it would be
            here within six seconds is treated as beyond its hard limit, and urgent; None for
            never.
        high_is_bad: False where trouble is a small value, such as memory left: the thresholds then
            fall from `low` to `hard`.
        hard_s: Duration before acting.
        grey_s: Duration before asking.
        low_s: Duration before relaxing.
        holds_work: Whether heavy work waits while the metric is beyond `hard` or cannot be read.

    """

    metric: Name
    hard: float | None = None
    grey: float | None = None
    low: float | None = None
    spare: Annotated[float, Field(gt=0)] | None = None
    fatal: float | None = None
    high_is_bad: bool = True
    hard_s: Annotated[float, Field(ge=0)] = 0.5
    grey_s: Annotated[float, Field(ge=0)] = 3.0
    low_s: Annotated[float, Field(ge=0)] = 30.0
    holds_work: bool = True

    @property
    def sign(self) -> float:
        """1 where high is bad, else -1: times a value it is on a scale on which high is bad."""
        return 1.0 if self.high_is_bad else -1.0

    @property
    def clear(self) -> float | None:
        """The value that keeps clear of the fatal one by what is to spare; None without one."""
        return None if self.fatal is None else self.fatal - self.sign * (self.spare or 0.0)

    def is_grey(self, value: float) -> bool:
        """Whether a value is in the grey zone or beyond it."""
        return self.grey is not None and self.sign * (value - self.grey) >= 0

    def is_beyond(self, value: float) -> bool:
        """Whether a value is at its hard limit or beyond it."""
        return self.hard is not None and self.sign * (value - self.hard) >= 0

    def mistakes(self) -> Iterator[Mistake]:
        """Thresholds that are not in order, and one that goes with another that is not there."""
        order = (self.low, self.grey, self.hard, self.fatal)
        given = [each for each in order if each is not None]
        ordered = sorted(given, reverse=not self.high_is_bad)
        if given != ordered or len(set(given)) < len(given):
            way = "rise" if self.high_is_bad else "fall"
            yield ("low",), f"low, grey, hard and fatal must {way} in this order"
        if self.spare is not None and self.hard is None:
            yield ("spare",), "is not allowed without hard"


class Pace(Declared):
    """How often it may move, in seconds.

    Attributes:
        dwell_s: Least time between a move and the opposite one. Only a hard limit may act sooner
            after a relaxation; the dwell is then doubled, up to 4 times, until one lasts.
        cooldown_s: Least time after any action.
        urgent_s: The cool-down where a metric is about to become fatal, or a hard limit rules that
            knows of no fatal value.
        ask_every_s: Least time between two questions to the judge. It doubles with each question
            that led to nothing, up to 4 times, until the metric has come nearer to its hard
            limit by a tenth of the grey zone, or left the zone: asking costs what is short.
        per_hour: Most moves in an hour, those that a hard limit forces apart.

    """

    dwell_s: Seconds = 60.0
    cooldown_s: Seconds = 15.0
    urgent_s: Seconds = 5.0
    ask_every_s: Seconds = 5.0
    per_hour: Annotated[int, Field(ge=1)] = 20


class _Watch:
    """One limit, and since when each of its thresholds is crossed."""

    __slots__ = (
        "_fatal",
        "_grey",
        "_hard",
        "_leap",
        "_low",
        "_same_s",
        "_seen_s",
        "_spared",
        "_still_s",
        "_value",
        "_values",
        "_wild",
        "grey_s",
        "hard_s",
        "limit",
        "low_s",
        "recent",
        "sign",
    )

    def __init__(self, limit: Limit, still_s: float) -> None:
        self.limit, self._still_s = limit, still_s
        self.sign = limit.sign
        self._hard = math.inf if limit.hard is None else self.sign * limit.hard
        self._grey = self._hard if limit.grey is None else self.sign * limit.grey
        self._low = self._grey if limit.low is None else self.sign * limit.low
        self._spared = self._hard - (math.inf if limit.spare is None else limit.spare)
        self._fatal = math.inf if limit.fatal is None else self.sign * limit.fatal
        zone = abs(self._hard - self._grey)
        self._leap = _LEAP * zone if limit.hard_s > 0 and 0 < zone < math.inf else math.inf
        self._values: deque[float] = deque(maxlen=_RECENT)
        self._wild = 0  # readings in a row that are far from most of the recent ones
        self.recent = Slope()
        self._seen_s = -math.inf
        self._value, self._same_s = math.nan, math.inf  # since when it has been this very value
        self.forget()

    @property
    def is_new(self) -> bool:
        """Whether it has seen nothing at all yet."""
        return self._seen_s == -math.inf

    def forget(self) -> None:
        """Nothing was seen of late."""
        self.recent.forget()
        self._values.clear()
        self.hard_s = self.grey_s = self.low_s = math.inf  # since when; infinity for not crossed

    def see(self, now_s: float, reading: Reading, relief: float | None) -> None:
        """Take a sound reading; `relief` is what the setting that goes back first takes off it."""
        if now_s - self._seen_s > _BLIND_S:
            self.forget()
        self._seen_s = now_s
        self._values.append(reading.value)
        is_far = abs(reading.value - median(self._values)) > self._leap
        self._wild = self._wild + 1 if is_far else 0
        if reading.value != self._value:
            self._value, self._same_s = reading.value, now_s
        level = self.sign * reading.value
        rise = max(0.0, self.sign * reading.per_min) * _AHEAD_S / 60.0
        can_do_without = relief is not None and level + relief + rise <= self._spared
        self.low_s = min(self.low_s, now_s) if level <= self._low or can_do_without else math.inf
        self.grey_s = min(self.grey_s, now_s) if level >= self._grey else math.inf
        if self._fatal < math.inf:
            self.recent.add(now_s, level)
        hot = level >= self._hard or self.is_urgent(level)
        self.hard_s = min(self.hard_s, now_s) if hot else math.inf

    def still_s(self, now_s: float, since_s: float = math.inf) -> float:
        """How long it has stood still; 0 if not too long, or if it has not since `since_s`."""
        same_s = now_s - self._same_s
        return same_s if same_s >= self._still_s and self._same_s <= since_s else 0.0

    def leapt(self) -> bool:
        """Whether the last reading may be a wild one, that is one of few that are far off."""
        return 0 < self._wild <= _WILD

    def is_low(self, value: float) -> bool:
        """Whether a value is low, whatever is in force."""
        return self.sign * value <= self._low

    def is_urgent(self, level: float) -> bool:
        """Whether it will be fatal within the time that an action takes."""
        if level < self._grey or self._fatal == math.inf:
            return False
        return level + _SOON_S * self.rise() >= self._fatal

    def rise(self) -> float:
        """How much worse it gets in a second, at least."""
        return self.recent.at_least()

    def level(self, value: float) -> float:
        """Where in the grey zone a value lies: 0 where it begins, 1 at the hard limit."""
        zone = self._hard - self._grey
        deep = self.sign * value - self._grey
        return deep / zone if 0 < zone < math.inf else deep / max(1e-9, abs(self._grey))

    def miss(self) -> None:
        """There was no sound value: nothing is known to be low any more."""
        self.low_s = math.inf


@dataclass(slots=True)
class _Seen:
    """What one round of readings shows: the first metric of each kind, and how all are."""

    hot: tuple[Reading, _Watch] | None = None
    grey: Reading | None = None
    unsure: tuple[Reading, bool] | None = None
    unread: str | None = None
    still: tuple[Reading, float] | None = None
    spared: Reading | None = None
    known: bool = False
    all_low: bool = True


class Guard:
    """The rules of one task and what they remember.

    `still_s` says of metrics that never rest how long they may give the very same value before
    their sensor is taken to be stuck: then it is neither relaxed nor asked, nor acted twice. Nor is
    it acted on a reading that leapt just now; the next ones confirm it.
    `rule` is asked at each sample; `moved` and `asked` tell it what came of its rulings.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        pace: Pace,
        still_s: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.pace = pace
        self._watches = [_Watch(each, still_s.get(each.metric, math.inf)) for each in limits]
        self._moves: deque[float] = deque()
        self._moved_s = self._relaxed_s = self._acted_s = self._asked_s = -math.inf
        self._patience, self._silence = 1.0, 0.0
        self._asked_level = -math.inf
        self._by_metric = {watch.limit.metric: watch for watch in self._watches}

    @property
    def dwell_s(self) -> float:
        """The dwell in force: longer after relaxations that had to be taken back."""
        return self.pace.dwell_s * self._patience

    def rule(
        self, now_s: float, readings: Mapping[str, Reading], relief: Mapping[str, float] | None
    ) -> Ruling:
        """Rule on one round of readings.

        `relief` says by how much the setting that would go back first lowers which metrics, in
        their units; None if nothing is degraded.
        """
        seen = self._look(now_s, readings, relief or {})
        if seen.hot is not None:
            return self._act(now_s, *seen.hot)
        if seen.still is not None and (seen.all_low or seen.grey is not None):
            reading, still_s = seen.still
            return Ruling("hold", "still", reading.name, reading.value, still_s)
        if seen.all_low and relief is not None:
            self._silence = 0.0
            refused = self._too_soon(now_s, self._acted_s)
            if refused is not None or seen.spared is None:
                return refused or _RELAX
            return Ruling("relax", "not needed", seen.spared.name, seen.spared.value)
        if seen.grey is not None:
            return self._ask(now_s, seen.grey)
        self._silence = 0.0
        if seen.unsure is not None:
            reading, crossed = seen.unsure
            return Ruling("hold", "not yet" if crossed else "between", reading.name, reading.value)
        if seen.unread is not None or not seen.known:
            return Ruling("hold", "no reading", seen.unread or "")
        return _NOTHING if seen.all_low else _CALM

    def _look(
        self, now_s: float, readings: Mapping[str, Reading], relief: Mapping[str, float]
    ) -> _Seen:
        seen = _Seen()
        for watch in self._watches:
            limit = watch.limit
            reading = readings.get(limit.metric)
            if reading is None and watch.is_new:
                continue  # this machine has no such metric
            seen.known = True
            if reading is None or reading.fault:
                watch.miss()
                seen.unread, seen.all_low = seen.unread or limit.metric, False
                continue
            watch.see(now_s, reading, relief.get(limit.metric))
            if still_s := watch.still_s(now_s):
                seen.still = seen.still or (reading, still_s)
            if now_s - watch.hard_s >= limit.hard_s:
                seen.hot = seen.hot or (reading, watch)
            elif now_s - watch.grey_s >= limit.grey_s:
                seen.grey = seen.grey or reading
            elif watch.low_s == math.inf:
                seen.unsure = seen.unsure or (reading, watch.grey_s < math.inf)
            if not watch.is_low(reading.value):
                seen.spared = seen.spared or reading
            seen.all_low = seen.all_low and now_s - watch.low_s >= limit.low_s
        seen.all_low = seen.all_low and seen.known
        return seen

    def moved(self, now_s: float, direction: Literal["act", "relax"], forced: bool = False) -> None:
        """Note a move that was made; `forced` if a hard limit made it."""
        for watch in self._watches:
            watch.recent.forget()  # what a move of ours changes is no trend
        if direction == "relax":
            self._relaxed_s = now_s
        else:
            if self._relaxed_s > self._acted_s:  # what was relaxed last is needed again
                if now_s - self._relaxed_s < (1.0 if forced else 2.0) * self.dwell_s:
                    self._patience = min(_MAX_PATIENCE, 2 * self._patience)
                elif now_s - self._relaxed_s > 2 * self.dwell_s:
                    self._patience = 1.0
            self._acted_s = now_s
        self._moved_s = now_s
        self._silence = 0.0
        if not forced:
            self._moves.append(now_s)

    def asked(self, now_s: float, ruling: Ruling) -> None:
        """Note that the judge was asked because of a ruling."""
        self._silence = min(_MAX_SILENCE, 2 * self._silence) if self._silence else 1.0
        self._asked_s = now_s
        self._asked_level = self._level(ruling.metric, ruling.value)

    def _act(self, now_s: float, reading: Reading, watch: _Watch) -> Ruling:
        urgent = watch.limit.fatal is None or watch.is_urgent(watch.sign * reading.value)
        pause_s = self.pace.urgent_s if urgent else self.pace.cooldown_s
        left_s = self._moved_s + pause_s - now_s
        if left_s > 0:
            return Ruling("hold", "cool-down", reading.name, reading.value, left_s)
        if still_s := watch.still_s(now_s, self._acted_s):
            return Ruling("hold", "still", reading.name, reading.value, still_s)
        if watch.leapt():
            return Ruling("hold", "leap", reading.name, reading.value)
        cause: Cause = "hard limit" if watch.limit.is_beyond(reading.value) else "rising"
        return Ruling("act", cause, reading.name, reading.value, per_s=watch.rise())

    def _ask(self, now_s: float, reading: Reading) -> Ruling:
        refused = self._too_soon(now_s, self._relaxed_s)
        if refused is not None:
            return refused
        if self._level(reading.name, reading.value) >= self._asked_level + _NEARER:
            self._silence = 0.0
        left_s = self._asked_s + self.pace.ask_every_s * max(1.0, self._silence) - now_s
        if left_s > 0:
            return Ruling("hold", "asked lately", reading.name, reading.value, left_s)
        return Ruling("grey", "grey zone", reading.name, reading.value)

    def _level(self, metric: str, value: float) -> float:
        return self._by_metric[metric].level(value)

    def _too_soon(self, now_s: float, opposite_s: float) -> Ruling | None:
        left_s = self._moved_s + self.pace.cooldown_s - now_s
        if left_s > 0:
            return Ruling("hold", "cool-down", remaining_s=left_s)
        left_s = opposite_s + self.dwell_s - now_s
        if left_s > 0:
            return Ruling("hold", "dwell", remaining_s=left_s)
        while self._moves and self._moves[0] <= now_s - HOUR_S:
            self._moves.popleft()
        return Ruling("hold", "rate limit") if len(self._moves) >= self.pace.per_hour else None


_CALM = Ruling("hold", "calm")
_NOTHING = Ruling("hold", "nothing to relax")
_RELAX = Ruling("relax", "all low")
