import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.mind.influence import InfluenceMode, influence


@pytest.mark.parametrize(
    ("mode", "confidence", "temperament", "factor"),
    [
        (None, 0.9, 0.9, 1),
        ("confidence", 0.5, 1, 1),
        ("confidence", 0.6, 1, 1.2),
        ("confidence", 0.1, 1, 0.5),
        ("confidence", 1.0, 1, 2),
        ("confidence", None, 1, 1),
        ("temperament", 0.9, 0, 1),
        ("temperament", 0.9, 0.4, 1.4),
        ("temperament", 0.9, -0.9, 0.5),
        ("temperament", 0.9, 1, 2),
    ],
)
def test_by_hand(
    mode: InfluenceMode, confidence: float | None, temperament: float, factor: float
) -> None:
    assert influence(mode, confidence, temperament) == pytest.approx(factor)


@given(
    mode=st.sampled_from(["confidence", "temperament"]),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
)
def test_more_of_either_never_means_less_influence(
    mode: InfluenceMode, low: float, high: float
) -> None:
    low, high = sorted((low, high))
    below = influence(mode, low, 2 * low - 1)
    above = influence(mode, high, 2 * high - 1)
    assert 0.5 <= below <= above <= 2
