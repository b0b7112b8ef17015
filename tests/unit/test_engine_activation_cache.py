"""What is computed once: kept within a budget."""

from collections.abc import Iterator

import torch

from sovl_daemon.engine.learning.activation_cache import ActivationCache


class Maker:
    """Counts what it is asked for; each tensor is 40 bytes."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, places: list[int]) -> Iterator[torch.Tensor]:
        self.made += places
        return (torch.full((10,), float(place)) for place in places)


def test_what_is_missing_is_made_and_the_rest_kept() -> None:
    store, make = ActivationCache(80), Maker()
    first = store.get(["a", "b"], make)
    again = store.get(["a", "c", "b"], make)
    assert make.made == [0, 1, 1]
    assert again[0] is first[0]
    assert again[2] is first[1]
    assert store.nbytes == 80


def test_beyond_the_budget_it_is_made_anew() -> None:
    store, make = ActivationCache(0), Maker()
    for _ in range(2):
        (found,) = store.get(["a"], make)
        assert float(found[0]) == 0
    assert make.made == [0, 0]
    assert store.nbytes == 0


def test_tuples_count_whole_and_clear_forgets() -> None:
    store = ActivationCache(1000)
    store.get(["a"], lambda _: [(torch.zeros(10), torch.zeros(10))])
    assert store.nbytes == 80
    store.clear()
    make = Maker()
    store.get(["a"], make)
    assert make.made == [0]
