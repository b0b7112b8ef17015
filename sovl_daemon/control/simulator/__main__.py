"""Print the study: `python -m sovl_daemon.control.simulator --seeds 30`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import cast

from sovl_daemon.control.simulator.faults import ActionFault, SensorFault
from sovl_daemon.control.simulator.measure import measure
from sovl_daemon.control.simulator.run import Faults, demand
from sovl_daemon.control.simulator.scenario import HELD_OUT, TRAINING, draw
from sovl_daemon.control.simulator.scores import Interval
from sovl_daemon.control.simulator.study import (
    Policy,
    Table,
    baselines,
    broken_judges,
    controls,
    difference,
    fit_judge,
    judge_scores,
    live,
    mean,
    merged,
    ours,
    regret,
    table,
)

_FIGURES = ("ooms", "flaps", "moves", "degraded_s", "needless_s", "act_s", "questions", "cost_s")
_FAULTS = ("", "nan", "frozen", "spiking", "clock", "lies")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study and print tables in Markdown."""
    parser = argparse.ArgumentParser(description="Try the health loop on simulated hours.")
    parser.add_argument("--seeds", type=int, default=30, help="hours of each family")
    parser.add_argument("--families", action="store_true", help="a table of each family as well")
    parser.add_argument("--held-out", action="store_true", help="only families no judge has seen")
    given = parser.parse_args(arguments)
    if given.seeds < 2:
        parser.error("--seeds: give 2 or more, or there is no interval")
    for line in _study(given.seeds, given.families, given.held_out):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _study(count: int, by_family: bool, held_out: bool) -> Iterator[str]:
    seeds = range(count)
    judge = fit_judge()
    mine = ours(judge)
    for name, group in (("seen", TRAINING), ("held out", HELD_OUT)):
        found = judge_scores(judge, group, seeds[:8])
        yield f"judge on families {name}: AUC {found.auc:.3f}, Brier {found.brier:.3f},"
        yield f"  ECE {found.ece:.3f}, {found.moments} moments"
    families = HELD_OUT if held_out else (*TRAINING, *HELD_OUT)
    runs = [live(draw(family, 9_000), mine) for family in families]
    tables = table([*baselines(), *controls(judge, runs), mine], families, seeds)
    if by_family:
        for family, found_table in tables.items():
            yield from _rows(f"{family}, {count} hours", found_table, mine.name)
    yield from _rows(f"all of {', '.join(families)}; {count} hours each", merged(tables), mine.name)
    yield from _faulty([mine, *broken_judges(judge)], families, seeds)


def _rows(title: str, found: Table, mine: str) -> Iterator[str]:
    yield f"\n{title}\n"
    yield f"| policy | {' | '.join(_FIGURES)} | regret | cost less ours |"
    yield "|" + "---|" * (len(_FIGURES) + 3)
    for name, measures in found.items():
        cells = [_shown(mean(measures, figure)) for figure in _FIGURES]
        apart = difference(measures, found[mine], "cost_s")
        cells += [_shown(regret(found, name)), "" if name == mine else _shown(apart)]
        yield f"| {name} | {' | '.join(cells)} |"


def _faulty(
    policies: Sequence[Policy], families: Sequence[str], seeds: Sequence[int]
) -> Iterator[str]:
    """The real judge with each fault of sensors and actions, then the broken judges."""
    yield "\nfaults\n"
    yield "| fault | ooms | flaps | degraded_s | cost_s | reverted | of them wrongly |"
    yield "|---|---|---|---|---|---|---|"
    for fault in _FAULTS:
        yield _fault_row(fault or "no fault", policies[0], _faults(fault), families, seeds)
    for policy in policies[1:]:
        yield _fault_row(policy.name, policy, Faults(), families, seeds)


def _faults(name: str) -> Faults:
    if name == "lies":
        return Faults(action=cast(ActionFault, name))
    return Faults(sensor=cast(SensorFault, name))


def _fault_row(
    name: str, policy: Policy, faults: Faults, families: Sequence[str], seeds: Sequence[int]
) -> str:
    scenarios = [draw(family, seed) for family in families for seed in seeds[:10]]
    runs = [(live(scenario, policy, faults), scenario) for scenario in scenarios]
    measures = [measure(run, demand(scenario)) for run, scenario in runs]
    cells = [_shown(mean(measures, f)) for f in ("ooms", "flaps", "degraded_s", "cost_s")]
    failures = sum(run.failures for run, _ in runs) / len(runs)
    wrongly = sum(run.false_failures for run, _ in runs) / len(runs)
    return f"| {name} | {' | '.join(cells)} | {failures:.2f} | {wrongly:.2f} |"


def _shown(interval: Interval) -> str:
    digits = 2 if abs(interval.value) < 10 else 0
    low, high = (f"{end:.{digits}f}" for end in interval[1:])
    return f"{interval.value:.{digits}f} ({low} to {high})"


if __name__ == "__main__":
    main()
