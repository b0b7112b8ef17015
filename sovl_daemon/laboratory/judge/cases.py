"""Simulated questions with their truth: what the judge is fitted on and scored by.

The truth of a case is whether, if nobody acts, some metric reaches its hard limit within a minute.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from sovl_daemon.control.metric import Inspector, Reading
from sovl_daemon.control.prompt import JudgePrompt, render
from sovl_daemon.control.task import Task
from sovl_daemon.control.task_file import SHIPPED, load_tasks
from sovl_daemon.laboratory.judge.loads import FAMILIES, LENGTH_S, Load
from sovl_daemon.laboratory.judge.simulators import SIMULATORS, Simulator, Values

_HERE = Path(__file__).parent
UNSEEN_TASKS = ("mail", "stream", "greenhouse", "boiler")
"""Tasks that no probe is fitted on."""

SOON_S = 60
_EVERY_S = 7
_WARM_S = 12  # until trends are settled
_MAX_PER_RUN = 3
_PATIENCE = 40  # scenarios without a case still wanted: some families never come true
_CALM = 0.12  # of the distance to the hard limit within a minute: numbers that tell nothing
_DEMANDS = (1.4, 1.8, 2.6, 4.0)
_RELIEF = 0.35
_LEADS_S = (2, 12)

Evidence = Literal["numbers", "lines", "both"]
Says = Literal["worse", "better", "idle"]


_SAYS: tuple[Says, ...] = ("worse", "worse", "better", "idle")


@dataclass(frozen=True, slots=True)
class Case:
    """One question, with what decides it.

    `evidence` says where it stands: in the numbers, in a line of the log alone, or in both, where a
    line outweighs the numbers. `telling` is what it says there, before its numbers were filled in.
    `new_lines` are lines that no probe is fitted on.
    """

    task: Task
    family: str
    evidence: Evidence
    new_lines: bool
    readings: Mapping[str, Reading]
    lines: tuple[str, ...]
    truth: bool
    telling: str = ""

    @property
    def prompt(self) -> JudgePrompt:
        """What the judge reads, from the code that the daemon uses."""
        return render(self.task, self.readings, self.lines)


@cache
def tasks() -> dict[str, Task]:
    """The shipped tasks and those that are simulated only, by name."""
    return load_tasks((SHIPPED, _HERE / "tasks"))


def fitted_tasks() -> list[str]:
    """The tasks that a probe is fitted on."""
    return [name for name in SIMULATORS if name not in UNSEEN_TASKS]


def draw(
    task: str,
    family: str,
    count: int,
    *,
    evidence: Evidence = "numbers",
    new_lines: bool = False,
    seed: int = 0,
) -> list[Case]:
    """Draw cases, as many true as false as far as they come; the same arguments, the same cases.

    Raises:
        KeyError: there is no such task or family.

    """
    rng = random.Random(f"{task} {family} {evidence} {new_lines} {seed}")  # noqa: S311 - a game
    find = _Finder(tasks()[task], family, new_lines, rng)
    wanted = {True: count - count // 2, False: count // 2}
    found: list[Case] = []
    idle = 0
    while len(found) < count and idle < _PATIENCE:
        idle += 1
        for case in find.run(evidence):
            if wanted[case.truth]:
                wanted[case.truth] -= 1
                found.append(case)
                idle = 0
    return found


class _Finder:
    """Lives through scenarios and takes the moments at which the judge would be asked."""

    def __init__(self, task: Task, family: str, new_lines: bool, rng: random.Random) -> None:
        self._task, self._family, self._new = task, family, new_lines
        self._rng = rng

    def run(self, evidence: Evidence) -> list[Case]:
        """The cases of one scenario."""
        load = FAMILIES[self._family](self._rng)
        system = SIMULATORS[self._task.name](self._rng)
        inspectors = {metric.name: Inspector(metric) for metric in self._task.metrics}
        moments: list[tuple[dict[str, Reading], Simulator, int]] = []
        for second in range(LENGTH_S):
            values = system.step(load(second))
            now_s = float(second)
            readings = {n: each.check(values[n], now_s, now_s) for n, each in inspectors.items()}
            if self._beyond(values):
                break
            due = second >= _WARM_S and second % _EVERY_S == 0
            if due and any(limit.is_grey(values[limit.metric]) for limit in self._task.limits):
                moments.append((readings, copy(system), second))
        chosen = self._rng.sample(moments, min(_MAX_PER_RUN, len(moments)))
        cases = (self._case(evidence, readings, at, load, s) for readings, at, s in chosen)
        return [case for case in cases if case is not None]

    def _case(
        self,
        evidence: Evidence,
        readings: Mapping[str, Reading],
        system: Simulator,
        load: Load,
        second: int,
    ) -> Case | None:
        if evidence == "numbers":
            truth = self._reaches(system, lambda ahead: load(second + ahead))
            return self._made(evidence, readings, "idle", truth)
        calm = all(self._is_calm(reading) for reading in readings.values())
        if calm is not (evidence == "lines"):
            return None
        says: Says = self._rng.choice(_SAYS)
        comes = self._comes(system, load, second, says, calm=calm)
        return None if comes is None else self._made(evidence, readings, says, comes)

    def _comes(
        self, system: Simulator, load: Load, second: int, says: Says, *, calm: bool
    ) -> bool | None:
        """Whether it happens after such a line; None where neither line nor numbers tell."""
        lead_s = self._rng.randint(*_LEADS_S)
        now = load(second)
        if says == "worse":
            ways = ((lambda ahead, d=d: d if ahead >= lead_s else now) for d in _DEMANDS)
            return True if any(self._reaches(system, way) for way in ways) else None
        if says == "better":
            reaches = self._reaches(system, lambda ahead: _RELIEF if ahead >= lead_s else now)
            return None if reaches else False
        reaches = self._reaches(system, lambda ahead: load(second + ahead))
        return None if reaches and calm else reaches

    def _reaches(self, system: Simulator, load: Load) -> bool:
        """Whether it would reach a hard limit within a minute."""
        other = copy(system)
        other.rng = random.Random(self._rng.random())  # noqa: S311 - a game
        return any(self._beyond(other.step(load(ahead))) for ahead in range(1, SOON_S + 1))

    def _made(
        self, evidence: Evidence, readings: Mapping[str, Reading], says: Says, truth: bool
    ) -> Case:
        lines = [self._filled(self._line("idle")) for _ in range(self._rng.choice((0, 0, 1, 2)))]
        telling = ""
        if evidence != "numbers":
            place, telling = self._rng.randint(0, len(lines)), self._line(says)
            lines.insert(place, self._filled(telling))
        task, new, told = self._task, self._new, tuple(lines)
        return Case(task, self._family, evidence, new, dict(readings), told, truth, telling)

    def _line(self, says: Says) -> str:
        table = log_lines()["" if says == "idle" else self._task.name]
        key = f"new_{says}" if self._new and f"new_{says}" in table else says
        return self._rng.choice(table[key])

    def _filled(self, line: str) -> str:
        return line.replace("{n}", str(self._rng.randint(2, 40)))

    def _is_calm(self, reading: Reading) -> bool:
        """Whether a metric at its trend stays away from its limit; for one without, always."""
        limit = next((each for each in self._task.limits if each.metric == reading.name), None)
        if limit is None or limit.hard is None:
            return True
        return abs(reading.per_min) <= _CALM * abs(limit.hard - reading.value) + 1e-9

    def _beyond(self, values: Values) -> bool:
        return any(limit.is_beyond(values[limit.metric]) for limit in self._task.limits)


@cache
def log_lines() -> dict[str, dict[str, Sequence[str]]]:
    """The lines by task and what they say; under "" those that say nothing."""
    with (_HERE / "log_lines.toml").open("rb") as file:
        tables = tomllib.load(file)
    idle = {key: tables.pop(key) for key in ("idle", "new_idle")}
    return {"": idle, **tables}


def shuffled(cases: Iterable[Case], seed: int = 0) -> list[Case]:
    """All cases in an order that does not depend on where they come from."""
    found = list(cases)
    random.Random(seed).shuffle(found)  # noqa: S311 - a game
    return found
