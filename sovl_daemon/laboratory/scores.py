"""How good a judge's probabilities are, and how sure a mean over seeds is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

_BINS = 10


class Scores(NamedTuple):
    """Scores of probabilities against what came true.

    `auc`: chance that a true one is ranked above a false one. `brier`: mean squared error. `ece`:
    mean distance between probability and frequency over ten bins of equal width.
    """

    auc: float
    brier: float
    ece: float
    moments: int


class Interval(NamedTuple):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def scores(probabilities: Sequence[float], labels: Sequence[bool]) -> Scores:
    """Score a judge.

    Raises:
        ValueError: not as many labels as probabilities, or not both labels.

    """
    from sklearn.metrics import brier_score_loss, roc_auc_score  # takes a second

    if len(set(labels)) < 2:
        raise ValueError("scores need both labels")
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for p, label in zip(probabilities, labels, strict=True):
        bins[min(_BINS - 1, int(p * _BINS))].append((p, label))
    auc = float(roc_auc_score(labels, probabilities))
    brier = float(brier_score_loss(labels, probabilities))
    gaps = (abs(math.fsum(p - label for p, label in each)) for each in bins)
    return Scores(auc, brier, math.fsum(gaps) / len(labels), len(labels))


def bootstrap(
    count: int,
    statistic: Callable[[Sequence[int]], float],
    *,
    seed: int = 0,
    rounds: int = 1000,
) -> Interval:
    """The 95 % percentile interval of a statistic of `count` seeds.

    `statistic` gets indices of seeds, drawn with replacement: whoever looks several policies up by
    the same indices compares them in pairs.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    drawn = [statistic(rng.choices(range(count), k=count)) for _ in range(rounds)]
    found = sorted(value for value in drawn if not math.isnan(value))
    value = statistic(range(count))
    if not found:
        return Interval(value, math.nan, math.nan)
    low, high = found[int(0.025 * len(found))], found[int(0.975 * (len(found) - 1))]
    return Interval(value, low, high)
