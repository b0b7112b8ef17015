"""The split: stable, fair on average, and never one-sided where it need not be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.memory.pairs import Pair
from sovl_daemon.memory.split import split

MANY = [Pair(f"prompt {number}", f"response {number}") for number in range(2000)]
lists = st.lists(st.builds(Pair, st.text(), st.text()), unique=True)
ratios = st.floats(0, 1, exclude_max=True)
seeds = st.integers(0, 2**32 - 1)


@given(lists, ratios, seeds)
def test_every_pair_is_on_one_side_and_order_is_kept(
    pairs: list[Pair], ratio: float, seed: int
) -> None:
    parts = split(pairs, ratio, seed)
    held = set(parts.validation)
    assert list(parts.validation) == [pair for pair in pairs if pair in held]
    assert list(parts.training) == [pair for pair in pairs if pair not in held]


@given(lists, st.floats(0, 1, exclude_min=True, exclude_max=True), seeds)
def test_both_sides_have_some_where_there_are_two_prompts(
    pairs: list[Pair], ratio: float, seed: int
) -> None:
    parts = split(pairs, ratio, seed)
    prompts = {pair.prompt for pair in pairs}
    assert bool(parts.validation) == (len(prompts) > 1)
    assert bool(parts.training) == bool(prompts)
    assert not {pair.prompt for pair in parts.training} & {pair.prompt for pair in parts.validation}


@given(st.permutations(range(60)), st.integers(20, 60), seeds)
def test_a_pair_stays_where_it_is_when_others_come_or_are_moved(
    order: list[int], some: int, seed: int
) -> None:
    fewer = split([MANY[number] for number in order[:some]], 0.5, seed)
    more = split([MANY[number] for number in order], 0.5, seed)
    assert set(fewer.validation) <= set(more.validation)
    assert set(fewer.training) <= set(more.training)


def test_a_larger_ratio_only_adds_to_the_validation() -> None:
    before: set[Pair] = set()
    for ratio in (0.1, 0.2, 0.5, 0.9):
        held = set(split(MANY, ratio, 42).validation)
        assert before < held
        assert abs(len(held) / len(MANY) - ratio) < 0.04
        before = held


def test_the_split_of_a_seed_is_the_same_on_every_machine() -> None:
    held = split(MANY[:10], 0.2, 42).validation
    assert [pair.prompt for pair in held] == ["prompt 2", "prompt 5", "prompt 6"]
    assert split(MANY, 0.2, 43).validation != split(MANY, 0.2, 42).validation


def test_nothing_is_held_back_with_ratio_0() -> None:
    assert split(MANY, 0, 42).training == tuple(MANY)
    assert split(MANY, 0, 42).validation == ()


def test_a_dry_run_takes_the_first_samples_and_still_has_both_sides() -> None:
    parts = split(MANY, 0.2, 42, max_samples=2)
    assert (len(parts.training), len(parts.validation)) == (1, 1)
    assert {*parts.training, *parts.validation} == set(MANY[:2])
    assert split(MANY, 0.2, 42, max_samples=10_000) == split(MANY, 0.2, 42)


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, float("nan")])
def test_what_is_no_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="out of range, allowed 0 to below 1"):
        split(MANY, ratio, 42)
