"""Restart intensity and backoff."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Settings
from sovl_daemon.restart import RestartHistory, RestartPolicy

policies = st.builds(
    RestartPolicy,
    intensity=st.integers(0, 1000),
    window_s=st.floats(1, 1000),
    initial_s=st.floats(0.01, 60),
    maximum_s=st.floats(60, 3600),
    jitter=st.floats(0, 1),
)
times = st.lists(st.floats(0, 10_000), max_size=60).map(sorted)
chances = st.floats(0, 1)


def delays(policy: RestartPolicy, moments: list[float], chance: float = 0.5) -> list[float | None]:
    history = RestartHistory(policy)
    return [history.delay(moment, chance) for moment in moments]


def test_the_pause_doubles_up_to_the_longest() -> None:
    policy = RestartPolicy(intensity=9, window_s=60, initial_s=1, maximum_s=5, jitter=0)
    assert delays(policy, [0, 1, 2, 3, 4]) == [1, 2, 4, 5, 5]


def test_one_too_many_within_the_window_gives_up() -> None:
    policy = RestartPolicy(intensity=2, window_s=10, initial_s=1, maximum_s=5, jitter=0)
    assert delays(policy, [0, 1, 2]) == [1, 2, None]
    assert delays(policy, [0, 1, 10.5, 11.5]) == [1, 2, 2, 2]
    assert delays(policy, [0, 1, 10]) == [1, 2, 2]  # the first is just over


def test_intensity_zero_never_restarts() -> None:
    policy = RestartPolicy(intensity=0, window_s=10, initial_s=1, maximum_s=5, jitter=0)
    assert delays(policy, [0]) == [None]


@pytest.mark.parametrize(("chance", "expected"), [(0, 0.8), (0.5, 1.0), (1, 1.2)])
def test_jitter_goes_both_ways(chance: float, expected: float) -> None:
    policy = RestartPolicy(intensity=2, window_s=10, initial_s=1, maximum_s=5, jitter=0.2)
    assert delays(policy, [0], chance) == [pytest.approx(expected)]


@given(policies, times, chances)
def test_it_gives_up_exactly_when_the_window_holds_too_many(
    policy: RestartPolicy, moments: list[float], chance: float
) -> None:
    for index, delay in enumerate(delays(policy, moments, chance)):
        now = moments[index]
        recent = sum(now - policy.window_s < moment for moment in moments[: index + 1])
        assert (delay is None) == (recent > policy.intensity)


@given(policies, times, chances)
def test_a_pause_is_never_longer_than_the_longest_and_its_jitter(
    policy: RestartPolicy, moments: list[float], chance: float
) -> None:
    for delay in delays(policy, moments, chance):
        if delay is not None:
            assert 0 <= delay <= policy.maximum_s * (1 + policy.jitter) + 1e-9


@given(policies, st.integers(1, 30))
def test_without_jitter_pauses_never_shrink_within_the_window(
    policy: RestartPolicy, count: int
) -> None:
    pauses = [delay for delay in delays(policy, [5.0] * count) if delay is not None]
    assert pauses == sorted(pauses)


def test_the_policy_is_that_of_the_settings() -> None:
    settings = Settings().supervision
    assert RestartPolicy.of(settings) == RestartPolicy(
        settings.restart_intensity,
        settings.restart_window_s,
        settings.backoff_initial_s,
        settings.backoff_max_s,
        settings.backoff_jitter,
    )
