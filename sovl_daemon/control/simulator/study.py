"""The study: every policy on every family, with paired seeds, controls and faults."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sovl_daemon.control.decision import Decider
from sovl_daemon.control.metric import Inspector, Reading
from sovl_daemon.control.regression import Regression, features, fit
from sovl_daemon.control.simulator.baselines import (
    MEMORY,
    PRESSURE,
    Baseline,
    Controller,
    Hpa,
    Hysteresis,
    Oomd,
    Threshold,
)
from sovl_daemon.control.simulator.clairvoyant import Clairvoyant
from sovl_daemon.control.simulator.judges import (
    TimedJudge,
    coin,
    constant,
    garbage,
    perfect,
    shuffled,
)
from sovl_daemon.control.simulator.measure import Measures, coming_peaks, measure
from sovl_daemon.control.simulator.plant import Plant
from sovl_daemon.control.simulator.run import BYTES, HARD, KV, Faults, Run, Simulation, demand
from sovl_daemon.control.simulator.scenario import TRAINING, Scenario, draw
from sovl_daemon.control.simulator.scores import Interval, Scores, bootstrap, scores
from sovl_daemon.control.task import Task, load_tasks

ASKED_FROM = 75.0
_FIT_SEEDS = range(10_000, 10_008)
_EVERY = 7

Table = dict[str, list[Measures]]


@dataclass(frozen=True)
class Policy:
    """A name, a controller for a task on a plant, and its judge, if it asks one.

    `foresees` gives it the judge that knows the demand to come.
    """

    name: str
    make: Callable[[Task, Plant], Controller]
    judge: TimedJudge | None = None
    foresees: bool = False


@cache
def memory_task() -> Task:
    """The shipped task of memory health."""
    return load_tasks()["memory"]


def live(scenario: Scenario, policy: Policy, faults: Faults | None = None) -> Run:
    """One run of a policy."""
    plant, task = Plant(scenario), memory_task()
    judge = policy.judge
    if policy.foresees:
        judge = TimedJudge(perfect(coming_peaks(demand(scenario)), HARD))
    controller = policy.make(task, plant)
    return Simulation(scenario, task, controller, plant, judge=judge, faults=faults).finish()


def watch(scenario: Scenario) -> list[tuple[dict[str, Reading], bool]]:
    """Moments of a scenario in which the judge would be asked, each with the truth.

    The truth is whether demand reaches the hard limit within a minute if nobody acts.
    """
    plant, peaks = Plant(scenario, mortal=False), coming_peaks(demand(scenario))
    noise = random.Random(f"{scenario.family} {scenario.seed} watch")  # noqa: S311 - a game
    wanted = {MEMORY, PRESSURE, KV}
    metrics = [each.metric for each in memory_task().metrics if each.metric.name in wanted]
    inspectors = {metric.name: Inspector(metric) for metric in metrics}
    moments = []
    for second in range(int(scenario.duration_s)):
        now_s = float(second)
        plant.advance(now_s)
        memory = min(100.0, plant.used() + noise.gauss(0.0, scenario.noise))
        values = {MEMORY: memory, PRESSURE: plant.pressure(), KV: plant.kv() * BYTES}
        readings = {n: inspectors[n].check(value, now_s, now_s) for n, value in values.items()}
        if second % _EVERY == 0 and ASKED_FROM <= memory < HARD:
            moments.append((readings, peaks[second] >= HARD))
    return moments


def fit_judge(families: Sequence[str] = TRAINING) -> Regression:
    """Fit the regression on families and seeds that no table uses."""
    moments = [m for family in families for seed in _FIT_SEEDS for m in watch(draw(family, seed))]
    task = memory_task()
    return fit([features(task, readings) for readings, _ in moments], [t for _, t in moments])


def judge_scores(judge: Regression, families: Sequence[str], seeds: Sequence[int]) -> Scores:
    """How well a judge ranks and how well it is calibrated, on scenarios of its own."""
    moments = [m for family in families for seed in seeds for m in watch(draw(family, seed))]
    task = memory_task()
    found = [judge.probability(features(task, readings)) for readings, _ in moments]
    return scores(found, [truth for _, truth in moments])


def baselines() -> list[Policy]:
    """What others do, and the bound."""
    return [
        Policy("none", lambda task, plant: Baseline(task)),
        Policy("threshold", lambda task, plant: Threshold(task)),
        Policy("threshold+hysteresis", lambda task, plant: Hysteresis(task)),
        Policy("oomd-like", lambda task, plant: Oomd(task)),
        Policy("HPA-like", lambda task, plant: Hpa(task)),
        Policy("clairvoyant", Clairvoyant),
    ]


def ours(judge: Regression) -> Policy:
    """The guard with a judge."""
    return guarded("guard+regression", TimedJudge(judge.opine))


def guarded(name: str, judge: TimedJudge | None = None) -> Policy:
    """The guard with any judge, or none: then only hard limits act."""
    return Policy(name, lambda task, plant: Decider(task), judge)


def controls(judge: Regression, runs: Sequence[Run]) -> list[Policy]:
    """The guard with judges that know nothing, and with none.

    `runs` of the real judge give the coin its share of true and the shuffled one its readings.
    """
    asked = sum(run.questions for run in runs)
    share = sum(run.trues for run in runs) / asked if asked else 0.5
    readings = [each for run in runs for each in run.seen]
    chance = random.Random(1)  # noqa: S311 - a game
    return [
        guarded("guard alone"),
        Policy("guard+perfect judge", lambda task, plant: Decider(task), foresees=True),
        guarded("guard+always true", TimedJudge(constant(1.0))),
        guarded("guard+coin", TimedJudge(coin(chance, share))),
        guarded("guard+shuffled", TimedJudge(shuffled(chance, judge, readings))),
    ]


def broken_judges(judge: Regression) -> list[Policy]:
    """The guard with judges that are slow, or say what is no answer."""
    chance = random.Random(2)  # noqa: S311 - a game
    return [
        guarded("slow judge", TimedJudge(judge.opine, (3.0, 30.0))),
        guarded("constant judge (false)", TimedJudge(constant(0.0))),
        guarded("garbage judge", TimedJudge(garbage(chance))),
    ]


def table(
    policies: Sequence[Policy], families: Sequence[str], seeds: Sequence[int]
) -> dict[str, Table]:
    """Measures by family and policy, in the order of the seeds."""
    found: dict[str, Table] = {}
    for family in families:
        found[family] = {policy.name: [] for policy in policies}
        for seed in seeds:
            scenario = draw(family, seed)
            wanted = demand(scenario)
            for policy in policies:
                run = live(scenario, policy)
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
    """(cost - clairvoyant) / (none - clairvoyant): 0 is the bound, 1 as bad as doing nothing.

    Not a number where doing nothing costs no more than the bound.
    """
    mine, best, none = (
        [each.cost_s for each in found[key]] for key in (name, "clairvoyant", "none")
    )

    def ratio(chosen: Sequence[int]) -> float:
        bound = math.fsum(best[i] for i in chosen)
        span = math.fsum(none[i] for i in chosen) - bound
        return (math.fsum(mine[i] for i in chosen) - bound) / span if span > 0 else math.nan

    return bootstrap(len(mine), ratio)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
