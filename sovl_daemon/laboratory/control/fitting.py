"""Fitting the regression that stands in for the language model, and scoring it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from sovl_daemon.control.metric import Inspector, Reading
from sovl_daemon.control.task import Task
from sovl_daemon.control.task_file import load_tasks
from sovl_daemon.laboratory.control.baselines import MEMORY, PRESSURE
from sovl_daemon.laboratory.control.measure import coming_peaks
from sovl_daemon.laboratory.control.plant import Plant
from sovl_daemon.laboratory.control.regression import Regression, features, fit
from sovl_daemon.laboratory.control.run import BYTES, HARD, KV, demand
from sovl_daemon.laboratory.control.scenario import TRAINING, Scenario, draw
from sovl_daemon.laboratory.scores import Scores, scores

ASKED_FROM = 75.0
_FIT_SEEDS = range(10_000, 10_008)
_EVERY = 7


@cache
def memory_task() -> Task:
    """The shipped task of memory health."""
    return load_tasks()["memory"]


@cache
def fitted() -> Regression:
    """The regression that stands in for the language model; the first call takes seconds."""
    return fit_judge()


def watch(scenario: Scenario) -> list[tuple[dict[str, Reading], bool]]:
    """Moments of a scenario in which the judge would be asked, each with the truth.

    The truth is whether demand reaches the hard limit within a minute if nobody acts.
    """
    plant, peaks = Plant(scenario, mortal=False), coming_peaks(demand(scenario))
    noise = random.Random(f"{scenario.family} {scenario.seed} watch")  # noqa: S311 - a game
    wanted = {MEMORY, PRESSURE, KV}
    metrics = [each for each in memory_task().metrics if each.name in wanted]
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
