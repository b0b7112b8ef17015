"""The smallest judge learns what there is to learn, and nothing else."""

import math
import random

import pytest

from sovl_daemon.control.prompt import render
from sovl_daemon.control.verdict import JudgeQuestion, verdict
from sovl_daemon.laboratory.control.regression import features, fit
from sovl_daemon.laboratory.scores import bootstrap, scores
from tests.control import readings, task


def samples(count: int, seed: int) -> tuple[list[list[float | None]], list[bool]]:
    """True by chance, the likelier the larger 2 x - y is; z tells nothing, w is missing."""
    rng = random.Random(seed)
    rows: list[list[float | None]] = []
    labels = []
    for _ in range(count):
        x, y, z = rng.gauss(5, 2), rng.gauss(0, 1), rng.gauss(0, 100)
        rows.append([x, y, z, None])
        labels.append(rng.random() < 1 / (1 + math.exp(-(2 * (x - 5) - y))))
    return rows, labels


def test_it_finds_the_weights_that_made_the_labels() -> None:
    judge = fit(*samples(4000, 1))
    weights = [w / s for w, s in zip(judge.weights, judge.scales, strict=True)]
    assert weights[0] == pytest.approx(2, abs=0.25)
    assert weights[1] == pytest.approx(-1, abs=0.25)
    assert weights[2] == pytest.approx(0, abs=0.01)
    rows, labels = samples(4000, 2)
    found = scores([judge.probability(row) for row in rows], labels)
    assert found.auc > 0.9
    assert found.ece < 0.05


def test_classes_that_can_be_separated_do_not_break_it() -> None:
    judge = fit([[0.0], [1.0]] * 50, [False, True] * 50)
    assert judge.probability([0.0]) < 0.1
    assert judge.probability([1.0]) > 0.9


@pytest.mark.parametrize("labels", [[True, True], [True, False, True]])
def test_it_refuses_what_teaches_nothing(labels: list[bool]) -> None:
    with pytest.raises(ValueError, match="both labels"):
        fit([[1.0], [2.0]], labels)


def test_features() -> None:
    assert features(task(), readings(80, per_min=12)) == [0.8, 0.12, pytest.approx(math.exp(-1))]
    assert features(task(), readings(80, per_min=-12)) == [0.8, -0.12, 0]
    assert features(task(), readings(95)) == [0.95, 0, 1]
    assert features(task(), readings(80, fault="stale")) == [None, None, None]


def test_it_answers_as_a_judge() -> None:
    rows = [features(task(), readings(value)) for value in range(60, 100)]
    judge = fit(rows, [value >= 80 for value in range(60, 100)])
    for value, answer in ((70, "false"), (95, "true")):
        found = readings(value)
        question = JudgeQuestion(task(), dict(found), render(task(), found), 0.0)
        assert verdict(judge.opine(question)).answer == answer


# Scores


def test_scores_of_a_perfect_a_constant_and_an_inverted_judge() -> None:
    labels = [True, False] * 50
    assert scores([float(label) for label in labels], labels)[:3] == (1, 0, 0)
    assert scores([0.5] * 100, labels)[:3] == (0.5, 0.25, 0)
    assert scores([1.0 - label for label in labels], labels)[:3] == (0, 1, 1)
    with pytest.raises(ValueError, match="both labels"):
        scores([0.5], [True])


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng, covered = random.Random(3), 0
    for round_ in range(100):
        values = [rng.gauss(7, 2) for _ in range(30)]

        def mean(chosen: object, values: list[float] = values) -> float:
            picked = [values[i] for i in chosen]  # type: ignore[attr-defined]
            return math.fsum(picked) / len(picked)

        found = bootstrap(30, mean, seed=round_, rounds=200)
        assert found.low <= found.value <= found.high
        covered += found.low <= 7 <= found.high
    assert 85 <= covered <= 99
