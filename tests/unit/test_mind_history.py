import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.mind.history import History

numbers = st.lists(st.floats(-1, 1), max_size=30)


@given(values=numbers, maxlen=st.integers(1, 10))
def test_it_keeps_the_newest(values: list[float], maxlen: int) -> None:
    history = History(maxlen=maxlen)
    for value in values:
        history = history.add(value)
    assert history.values == tuple(values[-maxlen:])
    assert history == History(tuple(values), maxlen)
    assert len(history) == min(len(values), maxlen)


@given(values=numbers)
def test_mean_and_variance(values: list[float]) -> None:
    history = History(tuple(values), 30)
    if not values:
        assert (history.mean, history.variance) == (None, 0)
        return
    mean = math.fsum(values) / len(values)
    assert history.mean == pytest.approx(mean)
    expected = math.fsum((value - mean) ** 2 for value in values) / len(values)
    assert history.variance == pytest.approx(expected, abs=1e-12)


def test_a_single_value_does_not_vary() -> None:
    assert History((0.3,)).variance == 0


def test_resizing_forgets_the_oldest_and_growing_forgets_none() -> None:
    history = History((1, 2, 3), 3)
    assert history.resized(2).values == (2, 3)
    assert history.resized(9).add(4).values == (1, 2, 3, 4)
    assert statistics.fmean(history.values) == history.mean


def test_adding_leaves_the_old_history_alone() -> None:
    history = History((1.0,))
    history.add(2)
    assert history.values == (1.0,)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_only_finite_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="give finite numbers"):
        History().add(value)


def test_there_is_room_for_one_at_least() -> None:
    with pytest.raises(ValueError, match="maxlen 0 is not allowed"):
        History(maxlen=0)
