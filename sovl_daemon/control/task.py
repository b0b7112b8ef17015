"""Tasks: what is watched, when it is acted, whom it asks and what it can do."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from sovl_daemon.control.declared import Declared, Line, Mistake, Name, Seconds
from sovl_daemon.control.guard import Limit, Pace
from sovl_daemon.control.metric import Metric


class NamedLevel(Declared):
    """The word that a metric is called by from a value on."""

    start: Annotated[float, Field(alias="from")]
    word: Line


class Described(Metric):
    """A metric with the words that the prompt has for it.

    `levels` rise; below the first it is called by the first word.
    """

    label: Line
    levels: Annotated[tuple[NamedLevel, ...], Field(min_length=1, strict=False)]

    def level(self, value: float) -> str:
        """The word for a value, for example `high`."""
        place = bisect_right(self.levels, value, key=lambda level: level.start)
        return self.levels[max(0, place - 1)].word

    def mistakes(self) -> Iterator[Mistake]:
        """Those of the metric, and levels that are not in order."""
        yield from super().mistakes()
        starts = [level.start for level in self.levels]
        if starts != sorted(set(starts)):
            yield ("levels",), "must rise from one level to the next"


class Rung(Declared):
    """One action of a ladder.

    Attributes:
        action: Name of the action; an agent provides it.
        when: When to use it, for people and for the judge's recommendation.
        lasting: Whether it leaves a degraded state that is relaxed later; False for what is done
            once, such as clearing caches.
        again_s: Time after which one that does not last may be done again.
        relief: By how much it is expected to lower metrics, in their units: an estimate by which a
            hard limit chooses how far to go, never what an action is verified by.

    """

    action: Name
    when: Line
    lasting: bool = True
    again_s: Seconds = 60.0
    relief: Mapping[Name, float] = {}


class Task(Declared):
    """One thing that SOVL looks after.

    Attributes:
        name: Short name, unique.
        title: What the prompt calls it: "Given the following TITLE metrics".
        about: One sentence for the judge: what is at stake and what an adjustment costs.
        decide: What is to be decided.
        deadline_s: How long a verdict may take; a later one does not count.
        abstain: Half the width of the band around 0.5 in which a verdict is an abstention.
        metrics: In the order of the prompt.
        limits: Hard rules and grey zones.
        ladder: Actions, cheapest first.
        pace: How often it may move.

    """

    name: Name
    title: Line
    about: Line
    decide: Line = "Decide if adjustments are needed."
    deadline_s: Seconds = 2.0
    abstain: Annotated[float, Field(ge=0, lt=0.5)] = 0.4
    metrics: Annotated[tuple[Described, ...], Field(min_length=1, strict=False)]
    limits: Annotated[tuple[Limit, ...], Field(min_length=1, strict=False)]
    ladder: Annotated[tuple[Rung, ...], Field(min_length=1, strict=False)]
    pace: Pace = Pace()

    def mistakes(self) -> Iterator[Mistake]:
        """What is there twice, and what its limits and actions say of metrics."""
        yield from _twice("metrics", "name", [metric.name for metric in self.metrics])
        yield from _twice("limits", "metric", [limit.metric for limit in self.limits])
        yield from _twice("ladder", "action", [rung.action for rung in self.ladder])
        metrics = {metric.name: metric for metric in self.metrics}
        there = ", ".join(sorted(metrics))
        for number, limit in enumerate(self.limits):
            key = ("limits", number)
            metric = metrics.get(limit.metric)
            if metric is None:
                yield (*key, "metric"), f"{limit.metric} is not declared; there are: {there}"
                continue
            if limit.hard is None and limit.grey is None:
                yield (*key, "metric"), "has neither hard nor grey; give at least one"
            for name, value in (("hard", limit.hard), ("grey", limit.grey), ("low", limit.low)):
                if value is not None and not metric.low <= value <= metric.high:
                    yield (*key, name), f"must be within {metric.low:g} to {metric.high:g}"
        for number, rung in enumerate(self.ladder):
            for name in rung.relief:
                if name not in metrics:
                    problem = f"{name} is not declared; there are: {there}"
                    yield ("ladder", number, "relief"), problem


def _twice(table: str, key: str, names: Sequence[str]) -> Iterator[Mistake]:
    for number, name in enumerate(names):
        if name in names[:number]:
            yield (table, number, key), f"{name} is there twice"
