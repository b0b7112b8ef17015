"""Who writes down what a controller sees and decides, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from sovl_daemon.control.decision import Decision, Step
from sovl_daemon.control.executor import Outcome
from sovl_daemon.control.ladder import Ladder
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.verdict import JudgeQuestion, Opinion
from sovl_daemon.laboratory.control.baselines import MEMORY, PRESSURE, PlantController
from sovl_daemon.laboratory.control.plant import Plant

Kind = Literal["asks", "true", "false", "abstains", "acts", "relaxes", "done", "failed"]


class Observation(NamedTuple):
    """One look. `read` and `pressure` are what the controller was told, None for a fault."""

    time_s: float
    used: float
    read: float | None
    pressure: float | None
    settings: tuple[str, ...]


class Happening(NamedTuple):
    """Something that was decided or done, and why."""

    time_s: float
    kind: Kind
    action: str
    why: str


class Recorder:
    """A controller that is another one, and remembers."""

    def __init__(self, controller: PlantController, plant: Plant) -> None:
        self._controller, self._plant = controller, plant
        self.moments: list[Observation] = []
        self.happenings: list[Happening] = []

    @property
    def ladder(self) -> Ladder:
        """Of the other one."""
        return self._controller.ladder

    @property
    def busy(self) -> bool:
        """Of the other one."""
        return self._controller.busy

    def sense(
        self,
        now_s: float,
        readings: Mapping[str, Reading],
        *,
        log_lines: Sequence[str] = (),
        unavailable: Mapping[str, str] | None = None,
    ) -> Step:
        """Look, and let the other one decide."""
        read, pressure = (_told(readings, name) for name in (MEMORY, PRESSURE))
        settings = tuple(sorted(self._plant.settings))
        self.moments.append(Observation(now_s, self._plant.used(), read, pressure, settings))
        step = self._controller.sense(now_s, readings, log_lines=log_lines, unavailable=unavailable)
        self._note(now_s, step)
        return step

    def answered(self, now_s: float, question: JudgeQuestion, opinion: Opinion | None) -> Step:
        """Hand an opinion on."""
        step = self._controller.answered(now_s, question, opinion)
        self._note(now_s, step)
        return step

    def performed(self, now_s: float, outcome: Outcome) -> Decision | None:
        """Hand an outcome on."""
        decision = self._controller.performed(now_s, outcome)
        bad = outcome.result in ("refused", "quarantined", "abandoned")
        failed = bad or (outcome.result == "reverted" and outcome.reason == "failed")
        kind: Kind = "failed" if failed else "done"
        why = decision.why if decision else outcome.reason
        self.happenings.append(Happening(now_s, kind, outcome.action, why))
        return decision

    def gone(self, action: str) -> None:
        """Hand it on."""
        self._controller.gone(action)

    def _note(self, now_s: float, step: Step) -> None:
        decision = step.decision
        why = decision.why if decision else ""
        verdict = decision.verdict if decision else None
        if verdict is not None:
            answers: dict[str, Kind] = {"true": "true", "false": "false", "abstain": "abstains"}
            self.happenings.append(Happening(now_s, answers[verdict.answer], "", why))
        kinds: dict[str, Kind] = {"ask": "asks", "act": "acts", "relax": "relaxes"}
        if step.does in kinds:
            self.happenings.append(Happening(now_s, kinds[step.does], step.action, why))


def _told(readings: Mapping[str, Reading], name: str) -> float | None:
    reading = readings.get(name)
    return None if reading is None or reading.fault else reading.value
