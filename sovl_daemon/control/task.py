"""Tasks: what is watched, when it is acted, whom it asks and what it can do, declared in files."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sovl_daemon.control.guard import Limit, Pace
from sovl_daemon.control.metric import Metric
from sovl_daemon.control.task_file import (
    MetricTable,
    RungTable,
    TaskError,
    TaskTable,
    located,
    read_task_table,
)

SHIPPED = Path(__file__).parent / "tasks"
_SUFFIXES = (".toml", ".json")


@dataclass(frozen=True, slots=True)
class Described:
    """A metric with the words that the prompt has for it.

    `starts` are the values, rising, from which on the level is called by the word at the same
    place; below the first it is called by the first word.
    """

    metric: Metric
    label: str
    starts: tuple[float, ...]
    words: tuple[str, ...]

    def level(self, value: float) -> str:
        """The word for a value, for example `high`."""
        return self.words[max(0, bisect_right(self.starts, value) - 1)]


@dataclass(frozen=True, slots=True)
class Rung:
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

    action: str
    when: str
    lasting: bool = True
    again_s: float = 60.0
    relief: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
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

    name: str
    title: str
    about: str
    decide: str
    deadline_s: float
    abstain: float
    metrics: tuple[Described, ...]
    limits: tuple[Limit, ...]
    ladder: tuple[Rung, ...]
    pace: Pace


def load_task(path: Path) -> Task:
    """Read one task.

    Raises:
        TaskError: the file is refused; one line for each mistake.

    """
    table, text = read_task_table(path)
    mistakes = [located(path, text, key, problem) for key, problem in _mistakes(table)]
    if mistakes:
        raise TaskError("\n".join(mistakes))
    return _task(table)


def load_tasks(folders: Sequence[Path] = (SHIPPED,)) -> dict[str, Task]:
    """Read every `.toml` and `.json` of the folders, by name; a later folder's task replaces ours.

    A folder that is not there holds no tasks.

    Raises:
        TaskError: a file is refused, or two of one folder have the same name; all mistakes of all
            files, one a line.

    """
    tasks: dict[str, Task] = {}
    mistakes: list[str] = []
    for folder in folders:
        here: dict[str, Path] = {}
        for path in _files(folder):
            try:
                task = load_task(path)
            except TaskError as error:
                mistakes.append(str(error))
                continue
            if task.name in here:
                other = here[task.name].name
                mistakes.append(f"{path}:1: name: {task.name} is also that of {other}")
            here[task.name] = path
            tasks[task.name] = task
    if mistakes:
        raise TaskError("\n".join(mistakes))
    return tasks


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)


Mistake = tuple[tuple[str | int, ...], str]


def _mistakes(table: TaskTable) -> Iterator[Mistake]:
    """What is wrong between keys; the form of each alone is already checked."""
    names = [metric.name for metric in table.metrics]
    yield from _twice("metrics", "name", names)
    yield from _twice("limits", "metric", [limit.metric for limit in table.limits])
    yield from _twice("ladder", "action", [rung.action for rung in table.ladder])
    for number, metric in enumerate(table.metrics):
        yield from _metric_mistakes(number, metric)
    scales = {metric.name: metric for metric in table.metrics}
    yield from _limit_mistakes(table, scales)
    for number, rung in enumerate(table.ladder):
        yield from _rung_mistakes(number, rung, scales)


def _metric_mistakes(number: int, metric: MetricTable) -> Iterator[Mistake]:
    if not metric.low < metric.high:
        yield ("metrics", number, "high"), f"must be above low ({metric.low:g})"
    starts = [level.start for level in metric.levels]
    if starts != sorted(set(starts)):
        yield ("metrics", number, "levels"), "must rise from one level to the next"


def _limit_mistakes(table: TaskTable, scales: Mapping[str, MetricTable]) -> Iterator[Mistake]:
    for number, limit in enumerate(table.limits):
        key = ("limits", number)
        if limit.metric not in scales:
            yield (*key, "metric"), f"{limit.metric} is not declared; there are: {_all(scales)}"
            continue
        if limit.hard is None and limit.grey is None:
            yield (*key, "metric"), "has neither hard nor grey; give at least one"
        try:
            Limit(**limit.model_dump())
        except ValueError as error:
            yield (*key, "low"), str(error).partition(": ")[2]
        scale = scales[limit.metric]
        for name in ("hard", "grey", "low"):
            value = getattr(limit, name)
            if value is not None and not scale.low <= value <= scale.high:
                yield (*key, name), f"must be within {scale.low:g} to {scale.high:g}"


def _rung_mistakes(number: int, rung: RungTable, scales: Mapping[str, object]) -> Iterator[Mistake]:
    for name in rung.relief:
        if name not in scales:
            key = ("ladder", number, "relief")
            yield key, f"{name} is not declared; there are: {_all(scales)}"


def _twice(table: str, key: str, names: Sequence[str]) -> Iterator[Mistake]:
    for number, name in enumerate(names):
        if name in names[:number]:
            yield (table, number, key), f"{name} is there twice"


def _all(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _task(table: TaskTable) -> Task:
    return Task(
        name=table.name,
        title=table.title,
        about=table.about,
        decide=table.decide,
        deadline_s=table.deadline_s,
        abstain=table.abstain,
        metrics=tuple(_described(metric) for metric in table.metrics),
        limits=tuple(Limit(**limit.model_dump()) for limit in table.limits),
        ladder=tuple(Rung(**rung.model_dump()) for rung in table.ladder),
        pace=Pace(**table.pace.model_dump()),
    )


def _described(table: MetricTable) -> Described:
    frozen_s = math.inf if table.frozen_s is None else table.frozen_s
    return Described(
        metric=Metric(table.name, table.unit, table.low, table.high, table.fresh_s, frozen_s),
        label=table.label,
        starts=tuple(level.start for level in table.levels),
        words=tuple(level.word for level in table.levels),
    )
