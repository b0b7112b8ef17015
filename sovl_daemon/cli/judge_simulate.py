"""`sovl judge simulate`: one hour of a simulated machine, driven by us or by somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sovl_daemon.cli import render


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
    from sovl_daemon.laboratory.control.hour import known, live_through
    from sovl_daemon.laboratory.control.plot import draw
    from sovl_daemon.laboratory.extra import require_scikit_learn
    from sovl_daemon.laboratory.plot import check, write

    require_scikit_learn()
    if list_:
        render.show(known(), as_json=as_json, view=_show_known)
        return
    if plot is not None:
        check(plot)
    hour = live_through(scenario, seed, policy, fault)
    if plot is not None:
        write(lambda: draw(hour.picture()), plot)
    report: dict[str, Any] = {**hour.figures(), **({"plot": str(plot)} if plot else {})}
    if as_json:
        report["moments"] = [each._asdict() for each in hour.recorder.moments]
        report["happenings"] = [each._asdict() for each in hour.recorder.happenings]
    render.show(report, as_json=as_json, view=_show)


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


def _show_known(known: dict[str, list[str]]) -> None:
    for name, values in known.items():
        render.console.print(f"[bold]{name}[/]: {render.escape('; '.join(values))}")
