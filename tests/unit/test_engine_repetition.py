import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.serving.answer_stream import Repetition

few_tokens = st.lists(st.integers(0, 2), max_size=40)


def ends_twice(ids: list[int], n: int) -> bool:
    """The rule as it is said."""
    return len(ids) >= 2 * n and ids[-n:] == ids[-2 * n : -n]


def stopped(ids: list[int], n: int = 3) -> list[int]:
    """The answer that is left of `ids`."""
    repetition = Repetition(n)
    for count, id_ in enumerate(ids, 1):
        if repetition.push(id_):
            return ids[: count - repetition.repeated]
    return ids


@given(ids=few_tokens, n=st.integers(1, 5))
def test_it_says_so_exactly_when_two_adjacent_ngrams_are_equal(ids: list[int], n: int) -> None:
    repetition = Repetition(n)
    said = [repetition.push(id_) for id_ in ids]
    assert said == [ends_twice(ids[: count + 1], n) for count in range(len(ids))]


@given(ids=few_tokens, n=st.integers(1, 5))
def test_what_is_left_has_no_repetition_and_what_is_dropped_was_one(ids: list[int], n: int) -> None:
    left = stopped(ids, n)
    assert not any(ends_twice(left[:count], n) for count in range(len(left) + 1))
    if left != ids:
        assert ids[len(left) : len(left) + n] == left[-n:]


@given(ids=few_tokens, n=st.integers(1, 5), turns=st.integers(2, 6))
def test_an_answer_that_goes_on_is_cut_to_one_turn(ids: list[int], n: int, turns: int) -> None:
    repetition = Repetition(n)
    said = [repetition.push(id_) for id_ in [*range(10, 10 + n)] * turns]
    assert said[-1]
    assert repetition.repeated == n * (turns - 1)


def test_three_words_twice_are_said_once() -> None:
    assert stopped([7, 1, 2, 3, 1, 2, 3, 9]) == [7, 1, 2, 3]


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2, 3, 9, 1, 2, 3],  # not adjacent
        [1, 2, 1, 2, 1],  # shorter than two trigrams
        [1, 2, 3, 4, 1, 2, 3, 4],  # four tokens long, so no two equal trigrams touch
        [5, 5, 5, 5, 5],
    ],
)
def test_what_only_looks_like_a_repetition_goes_on(ids: list[int]) -> None:
    assert stopped(ids) == ids


def test_suspects_are_known_before_the_verdict() -> None:
    repetition = Repetition()
    seen = [(repetition.push(id_), repetition.repeated) for id_ in (1, 2, 3, 1, 2, 8, 3)]
    assert seen == [
        (False, 0),
        (False, 0),
        (False, 0),
        (False, 1),
        (False, 2),
        (False, 0),
        (False, 0),
    ]


def test_an_ngram_has_a_token_at_least() -> None:
    with pytest.raises(OptionError, match="n 0 is not allowed"):
        Repetition(0)
