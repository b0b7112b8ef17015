import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.mind.confidence import answer_confidence

probabilities = st.lists(st.floats(0.001, 1), max_size=50)


@given(probabilities=probabilities)
def test_it_is_one_of_the_three_cases(probabilities: list[float]) -> None:
    found = answer_confidence(probabilities)
    if not probabilities:
        assert found == 0.5
        return
    mean = math.fsum(probabilities) / len(probabilities)
    variance = math.fsum((each - mean) ** 2 for each in probabilities) / len(probabilities)
    if len(probabilities) > 1 and variance < 0.99e-5:
        assert found == 0.2
    elif len(probabilities) == 1 or variance > 1.01e-5:
        assert found == pytest.approx(mean)


@given(probabilities=probabilities)
def test_it_stays_between_0_and_1(probabilities: list[float]) -> None:
    assert 0 < answer_confidence(probabilities) <= 1


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([], 0.5),
        ([0.9], 0.9),
        ([0.9, 0.9], 0.2),
        ([0.9, 0.901, 0.9], 0.2),
        ([0.9, 0.91], 0.905),
        ([0.2, 0.4, 0.9], 0.5),
    ],
)
def test_by_hand(probabilities: list[float], expected: float) -> None:
    assert answer_confidence(probabilities) == pytest.approx(expected)
