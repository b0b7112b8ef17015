"""One hour of a simulated machine: chosen by names, lived through, and told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import cast, get_args

from sovl_daemon.control.task import Task
from sovl_daemon.engine.errors import OptionError
from sovl_daemon.laboratory.control.faults import ActionFault, SensorFault
from sovl_daemon.laboratory.control.fitting import memory_task
from sovl_daemon.laboratory.control.measure import measure
from sovl_daemon.laboratory.control.plant import Plant
from sovl_daemon.laboratory.control.plot import Picture
from sovl_daemon.laboratory.control.policies import (
    BOUND,
    NONE,
    Policy,
    live,
    policies,
    simulation,
)
from sovl_daemon.laboratory.control.recorder import Recorder
from sovl_daemon.laboratory.control.run import Faults, Run, demand
from sovl_daemon.laboratory.control.scenario import FAMILIES, HELD_OUT, Scenario, draw

_SENSORS = tuple(filter(None, get_args(SensorFault)))
_ACTIONS = tuple(filter(None, get_args(ActionFault)))


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour that was lived through; `demand` is what would be in use if nobody had acted."""

    scenario: Scenario
    policy: Policy
    run: Run
    recorder: Recorder
    demand: list[float]

    def figures(self) -> dict[str, str | float | None]:
        """What it came to, beside doing nothing and hindsight; None where there is no number."""
        measures = asdict(measure(self.run, self.demand))
        none, bound = (
            measure(live(self.scenario, _policy(name)), self.demand) for name in (NONE, BOUND)
        )
        return {
            "scenario": self.scenario.family,
            "seed": self.scenario.seed,
            "policy": self.policy.name,
            **{n: None if value != value else round(value, 3) for n, value in measures.items()},
            "said_true": self.run.trues,
            "none_ooms": none.ooms,
            "none_cost_s": round(none.cost_s, 3),
            "bound_cost_s": round(bound.cost_s, 3),
        }

    def picture(self) -> Picture:
        """What is drawn of it."""
        task = memory_task()
        return Picture(
            title=f"{self.scenario.family}, seed {self.scenario.seed}, {self.policy.name}",
            moments=self.recorder.moments,
            happenings=self.recorder.happenings,
            ooms=self.run.ooms,
            demand=self.demand,
            limit=task.limits[0],
            actions=[rung.action for rung in task.ladder if rung.lasting],
        )


def live_through(family: str, seed: int, policy: str, fault: str) -> Hour:
    """An hour of a family, with who decides and what is broken (nothing: "").

    Raises:
        OptionError: there is no such family, policy or fault; the message names those there are.

    """
    drawn, chosen, faults = _scenario(family, seed), _policy(policy), _faults(fault)
    recorders: list[Recorder] = []

    def watched(task: Task, plant: Plant) -> Recorder:
        recorders.append(Recorder(chosen.make(task, plant), plant))
        return recorders[0]

    run = simulation(drawn, replace(chosen, make=watched), faults).finish()
    (recorder,) = recorders
    return Hour(drawn, chosen, run, recorder, demand(drawn))


def known() -> dict[str, list[str]]:
    """The names there are, by what they name."""
    return {
        "families": list(FAMILIES),
        "held_out": list(HELD_OUT),
        "policies": [each.name for each in policies()],
        "faults": [*_SENSORS, *_ACTIONS],
    }


def _scenario(family: str, seed: int) -> Scenario:
    if family not in FAMILIES:
        raise OptionError(f"--scenario {family}: no such family; there are: {', '.join(FAMILIES)}")
    return draw(family, seed)


def _policy(name: str) -> Policy:
    found = {each.name: each for each in policies()}
    if name not in found:
        raise OptionError(f"--policy {name}: no such policy; there are: {'; '.join(found)}")
    return found[name]


def _faults(name: str) -> Faults:
    if name and name not in (*_SENSORS, *_ACTIONS):
        there_are = ", ".join((*_SENSORS, *_ACTIONS))
        raise OptionError(f"--fault {name}: no such fault; there are: {there_are}")
    if name in _ACTIONS:
        return Faults(action=cast(ActionFault, name))
    return Faults(sensor=cast(SensorFault, name))
