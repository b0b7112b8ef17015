"""The study: every policy on every family with paired seeds, and what is computed from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sovl_daemon.laboratory.control.measure import Measures, measure
from sovl_daemon.laboratory.control.policies import BOUND, NONE, Policy, live
from sovl_daemon.laboratory.control.run import Faults, demand
from sovl_daemon.laboratory.control.scenario import draw
from sovl_daemon.laboratory.scores import Interval, bootstrap

Table = dict[str, list[Measures]]


def table(
    policies: Sequence[Policy],
    families: Sequence[str],
    seeds: Sequence[int],
    faults: Faults | None = None,
) -> dict[str, Table]:
    """Measures by family and policy, in the order of the seeds."""
    found: dict[str, Table] = {}
    for family in families:
        found[family] = {policy.name: [] for policy in policies}
        for seed in seeds:
            scenario = draw(family, seed)
            wanted = demand(scenario)
            for policy in policies:
                run = live(scenario, policy, faults)
                found[family][policy.name].append(measure(run, wanted))
    return found


def merged(tables: Mapping[str, Table]) -> Table:
    """All families as one; seeds stay apart, so that pairs stay pairs."""
    names = next(iter(tables.values())).keys()
    return {name: [m for each in tables.values() for m in each[name]] for name in names}


def mean(measures: Sequence[Measures], figure: str) -> Interval:
    """The mean of one figure over seeds; where it is not a number it is left out."""
    values = [float(getattr(each, figure)) for each in measures]
    return bootstrap(len(values), lambda chosen: _mean([values[i] for i in chosen]))


def difference(mine: Sequence[Measures], theirs: Sequence[Measures], figure: str) -> Interval:
    """The mean of mine less theirs, seed by seed."""
    pairs = zip(mine, theirs, strict=True)
    values = [float(getattr(a, figure)) - float(getattr(b, figure)) for a, b in pairs]
    return bootstrap(len(values), lambda chosen: _mean([values[i] for i in chosen]))


def regret(found: Table, name: str) -> Interval:
    """(cost - bound) / (none - bound): 0 is the bound, 1 as bad as doing nothing.

    Not a number where doing nothing costs no more than the bound.
    """
    return _over_span(found, name, BOUND)


def regret_difference(found: Table, mine: str, theirs: str) -> Interval:
    """The regret of one policy less that of another, from the same seeds."""
    return _over_span(found, mine, theirs)


def _over_span(found: Table, upper: str, lower: str) -> Interval:
    more, less, best, none = (
        [each.cost_s for each in found[key]] for key in (upper, lower, BOUND, NONE)
    )

    def ratio(chosen: Sequence[int]) -> float:
        span = math.fsum(none[i] - best[i] for i in chosen)
        return math.fsum(more[i] - less[i] for i in chosen) / span if span > 0 else math.nan

    return bootstrap(len(more), ratio)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
