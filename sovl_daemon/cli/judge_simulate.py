"""`sovl judge simulate`: one hour of a simulated machine, driven by us or by somebody else."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from sovl_daemon.cli import render
from sovl_daemon.control.task import Task
from sovl_daemon.engine.errors import OptionError
from sovl_daemon.laboratory.control.faults import ActionFault, SensorFault
from sovl_daemon.laboratory.control.fitting import memory_task
from sovl_daemon.laboratory.control.measure import Measures, measure
from sovl_daemon.laboratory.control.plant import Plant
from sovl_daemon.laboratory.control.policies import (
    BOUND,
    NONE,
    Policy,
    live,
    policies,
    simulation,
)
from sovl_daemon.laboratory.control.run import Faults, Run, demand
from sovl_daemon.laboratory.control.scenario import FAMILIES, HELD_OUT, Scenario, draw
from sovl_daemon.laboratory.control.witness import Witness
from sovl_daemon.laboratory.plot import check

_SENSORS = tuple(filter(None, get_args(SensorFault)))
_ACTIONS = tuple(filter(None, get_args(ActionFault)))


def simulate(
    scenario: Annotated[
        str, typer.Option(metavar="FAMILY", help="Family of the hour: see --list.")
    ] = "burst",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same hour.")] = 0,
    policy: Annotated[
        str, typer.Option(metavar="NAME", help="Who decides: see --list.")
    ] = "guard+regression",
    fault: Annotated[
        str, typer.Option(metavar="NAME", help="What is broken meanwhile: see --list.")
    ] = "",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it into this .png or .svg file.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List families, policies, faults.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with all that happened.")
    ] = False,
) -> None:
    """Let a simulated machine live through an hour of a family, and tell what was done and why."""
    if list_:
        render.show(_known(), as_json=as_json, view=_show_known)
        return
    if plot is not None:
        check(plot)
    drawn, chosen, faults = _hour(scenario, seed), _policy(policy), _faults(fault)
    report = _lived(drawn, chosen, faults, plot, as_json=as_json)
    render.show(report, as_json=as_json, view=_show)


def _hour(family: str, seed: int) -> Scenario:
    if family not in FAMILIES:
        raise OptionError(f"--scenario {family}: no such family; there are: {', '.join(FAMILIES)}")
    return draw(family, seed)


def _policy(name: str) -> Policy:
    known = {each.name: each for each in policies()}
    if name not in known:
        raise OptionError(f"--policy {name}: no such policy; there are: {'; '.join(known)}")
    return known[name]


def _faults(name: str) -> Faults:
    if name and name not in (*_SENSORS, *_ACTIONS):
        known = ", ".join((*_SENSORS, *_ACTIONS))
        raise OptionError(f"--fault {name}: no such fault; there are: {known}")
    if name in _ACTIONS:
        return Faults(action=cast(ActionFault, name))
    return Faults(sensor=cast(SensorFault, name))


def _lived(
    drawn: Scenario, policy: Policy, faults: Faults, plot: Path | None, *, as_json: bool
) -> dict[str, Any]:
    witnesses: list[Witness] = []

    def watched(task: Task, plant: Plant) -> Witness:
        witnesses.append(Witness(policy.make(task, plant), plant))
        return witnesses[0]

    wanted = demand(drawn)
    run = simulation(drawn, replace(policy, make=watched), faults).finish()
    (witness,) = witnesses
    if plot is not None:
        _draw(drawn, policy, run, witness, wanted, plot)
    beside = {name: measure(live(drawn, _policy(name)), wanted) for name in (NONE, BOUND)}
    report = _summary(drawn, policy, run, measure(run, wanted), beside)
    if plot is not None:
        report["plot"] = str(plot)
    if as_json:
        report["moments"] = [each._asdict() for each in witness.moments]
        report["happenings"] = [each._asdict() for each in witness.happenings]
    return report


def _draw(
    drawn: Scenario,
    policy: Policy,
    run: Run,
    witness: Witness,
    wanted: list[float],
    path: Path,
) -> None:
    from sovl_daemon.laboratory.control.plot import Hour, save

    task = memory_task()
    hour = Hour(
        title=f"{drawn.family}, seed {drawn.seed}, {policy.name}",
        moments=witness.moments,
        happenings=witness.happenings,
        ooms=run.ooms,
        demand=wanted,
        limit=task.limits[0],
        actions=[rung.action for rung in task.ladder if rung.lasting],
    )
    save(hour, path)


def _summary(
    drawn: Scenario, policy: Policy, run: Run, mine: Measures, beside: dict[str, Measures]
) -> dict[str, Any]:
    figures = {
        name: None if value != value else round(value, 3) for name, value in asdict(mine).items()
    }
    return {
        "scenario": drawn.family,
        "seed": drawn.seed,
        "policy": policy.name,
        **figures,
        "said_true": run.trues,
        "none_ooms": beside[NONE].ooms,
        "none_cost_s": round(beside[NONE].cost_s, 3),
        "bound_cost_s": round(beside[BOUND].cost_s, 3),
    }


def _show(report: dict[str, Any]) -> None:
    render.console.print(in_words(report))
    if "plot" in report:
        render.console.print(f"drawn in {render.escape(report['plot'])}")


def in_words(report: dict[str, Any]) -> str:
    """The figures of an hour as a few sentences."""
    hour, lost, alone = (report[name] for name in ("scenario", "ooms", "none_ooms"))
    seconds = {name: f"{report[name]:.0f} s" for name in report if name.endswith("_s")
               if report[name] is not None}  # fmt: skip
    return (
        f"An hour of {hour}, seed {report['seed']}, with {report['policy']}.\n"
        f"Memory ran out: {_times(lost)}; had nobody acted: {_times(alone)}.\n"
        f"Settings changed: {_times(report['moves'])}; within two minutes of the opposite: "
        f"{_times(report['flaps'])}.\n"
        f"Degraded: {seconds['degraded_s']} of the hour; needlessly: {seconds['needless_s']}.\n"
        f"The judge was asked: {_times(report['questions'])}; said true: "
        f"{_times(report['said_true'])}.\n"
        f"Actions that did not do what they promised: {report['failures']:.0f}.\n"
        f"Cost in bad service: {seconds['cost_s']}; of doing nothing: {seconds['none_cost_s']}; "
        f"of hindsight: {seconds['bound_cost_s']}."
    )


def _times(count: float) -> str:
    return {0: "never", 1: "once"}.get(round(count), f"{count:.0f} times")


def _known() -> dict[str, Any]:
    return {
        "families": list(FAMILIES),
        "held_out": list(HELD_OUT),
        "policies": [each.name for each in policies()],
        "faults": [*_SENSORS, *_ACTIONS],
    }


def _show_known(known: dict[str, Any]) -> None:
    for name, values in known.items():
        render.console.print(f"[bold]{name}[/]: {render.escape('; '.join(values))}")
