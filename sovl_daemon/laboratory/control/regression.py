"""A logistic regression on a task's numbers: the smallest judge, and the measure of larger ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.task import Task
from sovl_daemon.control.verdict import Opinion, Question

_RIDGE = 1e-3  # of the mean curvature: keeps weights finite where the classes can be separated
_ROUNDS = 12
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

    def opine(self, question: Question) -> Opinion:
        """Answer at once."""
        p = self.probability(features(question.task, question.readings))
        return Opinion(p, 1.0 - p)

    async def judge(self, question: Question) -> Opinion:
        """Answer as a judge."""
        return self.opine(question)


def fit(samples: Sequence[Sequence[float | None]], labels: Sequence[bool]) -> Regression:
    """Fit by Newton's method on the log-likelihood, with a small ridge.

    Raises:
        ValueError: there is no sample, or all have the same label.

    """
    if len(set(labels)) < 2 or len(samples) != len(labels):
        raise ValueError("a regression needs samples of both labels, one label each")
    columns = list(zip(*samples, strict=True))
    means, scales = zip(*map(_moments, columns), strict=True)
    rows = [_standard(sample, means, scales) for sample in samples]
    weights = [0.0] * (len(means) + 1)
    for _ in range(_ROUNDS):
        step = _newton_step(rows, labels, weights)
        weights = [w + d for w, d in zip(weights, step, strict=True)]
        if max(map(abs, step)) < 1e-6:
            break
    return Regression(tuple(means), tuple(scales), tuple(weights[:-1]), weights[-1])


def _moments(column: Sequence[float | None]) -> tuple[float, float]:
    known = [x for x in column if x is not None]
    mean = math.fsum(known) / len(known) if known else 0.0
    variance = math.fsum((x - mean) ** 2 for x in known) / len(known) if known else 0.0
    return mean, math.sqrt(variance) or 1.0


def _standard(
    sample: Sequence[float | None], means: Sequence[float], scales: Sequence[float]
) -> list[float]:
    """Zero mean, unit deviation, and a last 1 for the bias."""
    rows = zip(sample, means, scales, strict=True)
    return [0.0 if x is None else (x - m) / s for x, m, s in rows] + [1.0]


def _newton_step(
    rows: Sequence[Sequence[float]], labels: Sequence[bool], weights: Sequence[float]
) -> list[float]:
    size = len(weights)
    slope = [0.0] * size
    curvature = [[0.0] * size for _ in range(size)]
    for row, label in zip(rows, labels, strict=True):
        p = _sigmoid(sum(x * w for x, w in zip(row, weights, strict=True)))
        error, weight = label - p, p * (1.0 - p)
        for i, x in enumerate(row):
            slope[i] += error * x
            line, scaled = curvature[i], weight * x
            for j in range(i + 1):
                line[j] += scaled * row[j]
    ridge = _RIDGE * len(rows)
    for i in range(size):
        slope[i] -= ridge * weights[i] if i < size - 1 else 0.0
        curvature[i][i] += ridge
        for j in range(i):
            curvature[j][i] = curvature[i][j]
    return _solve(curvature, slope)


def _solve(matrix: list[list[float]], vector: list[float]) -> list[float]:
    """Gaussian elimination; the ridge keeps the matrix positive definite, so none is pivoted."""
    size = len(vector)
    for i in range(size):
        for k in range(i + 1, size):
            factor = matrix[k][i] / matrix[i][i]
            matrix[k] = [a - factor * b for a, b in zip(matrix[k], matrix[i], strict=True)]
            vector[k] -= factor * vector[i]
    solution = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(matrix[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (vector[i] - rest) / matrix[i][i]
    return solution


def _sigmoid(value: float) -> float:
    """1 / (1 + e^-value), in the form that does not overflow."""
    return (1.0 + math.tanh(value / 2.0)) / 2.0
