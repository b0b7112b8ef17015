"""A logistic regression on a task's numbers: the smallest judge, and the measure of larger ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.task import Task
from sovl_daemon.control.verdict import JudgeQuestion, Opinion

_RIDGE = 1e-3  # L2 penalty a sample: keeps weights finite where classes can be separated
_HORIZON_S = 60.0


def features(task: Task, readings: Mapping[str, Reading]) -> list[float | None]:
    """Three numbers a metric: value and trend a minute as shares of its scale, and nearness.

    Nearness is e^(-s / 60) for the s seconds until the metric reaches its hard limit at its present
    trend: 1 there, 0 if it never does. None where a reading is missing or has a fault.
    """
    hard = {limit.metric: limit for limit in task.limits}
    found: list[float | None] = []
    for metric in task.metrics:
        reading = readings.get(metric.name)
        if reading is None or reading.fault:
            found += [None, None, None]
            continue
        limit = hard.get(metric.name)
        goal = limit.hard if limit is not None and limit.hard is not None else math.inf
        found += [
            (reading.value - metric.low) / metric.span,
            reading.per_min / metric.span,
            _nearness(reading, goal, 1.0 if limit is None or limit.high_is_bad else -1.0),
        ]
    return found


def _nearness(reading: Reading, goal: float, sign: float) -> float:
    if not math.isfinite(goal):
        return 0.0
    if sign * (reading.value - goal) >= 0:
        return 1.0
    left_s = 60.0 * (goal - reading.value) / reading.per_min if reading.per_min else math.inf
    return math.exp(-left_s / _HORIZON_S) if left_s > 0 else 0.0  # 0: it moves away


@dataclass(frozen=True, slots=True)
class Regression:
    """A fitted model; answers as a judge does. What is missing counts as the mean."""

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def probability(self, found: Sequence[float | None]) -> float:
        """P(true) for some features, in the order they were fitted."""
        rows = zip(found, self.means, self.scales, self.weights, strict=True)
        parts = (w * (x - m) / s for x, m, s, w in rows if x is not None)
        return _sigmoid(self.bias + math.fsum(parts))

    def opine(self, question: JudgeQuestion) -> Opinion:
        """Answer at once."""
        p = self.probability(features(question.task, question.readings))
        return Opinion(p, 1.0 - p)


def fit(samples: Sequence[Sequence[float | None]], labels: Sequence[bool]) -> Regression:
    """Fit on standardised features, with a small ridge.

    Raises:
        ValueError: there is no sample, or all have the same label.

    """
    from sklearn.linear_model import LogisticRegression  # takes a second: only a fit pays

    if len(set(labels)) < 2 or len(samples) != len(labels):
        raise ValueError("a regression needs samples of both labels, one label each")
    known = np.ma.masked_invalid(np.array(samples, dtype=float))
    means, scales = known.mean(axis=0).filled(0.0), known.std(axis=0).filled(0.0)
    scales[scales == 0.0] = 1.0
    standard = ((known - means) / scales).filled(0.0)
    strength = 1.0 / (_RIDGE * len(samples))
    found = LogisticRegression(C=strength, solver="newton-cholesky").fit(standard, labels)
    return Regression(
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        weights=tuple(found.coef_[0].tolist()),
        bias=float(found.intercept_[0]),
    )


def _sigmoid(value: float) -> float:
    """1 / (1 + e^-value), in the form that does not overflow."""
    return (1.0 + math.tanh(value / 2.0)) / 2.0
