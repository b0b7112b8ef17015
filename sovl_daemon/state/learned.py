"""Which interactions a mind has learned, as runs of ids that one generation learned."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class LearnedRun(NamedTuple):
    """The interactions from `first` to `last`, both included, were learned in `generation`."""

    first: int
    last: int
    generation: int


def runs_of(learned: Mapping[int, int]) -> tuple[LearnedRun, ...]:
    """Return the shortest list of runs for a mapping of interaction to generation."""
    runs: list[LearnedRun] = []
    for id_, generation in sorted(learned.items()):
        if runs and runs[-1].last == id_ - 1 and runs[-1].generation == generation:
            runs[-1] = runs[-1]._replace(last=id_)
        else:
            runs.append(LearnedRun(id_, id_, generation))
    return tuple(runs)


def learned_of(runs: Iterable[LearnedRun]) -> dict[int, int]:
    """Return the generation by interaction."""
    return {id_: run.generation for run in runs for id_ in range(run.first, run.last + 1)}


def ids_of(runs: Iterable[LearnedRun], generation: int) -> list[int]:
    """Return the interactions that one generation learned."""
    return [
        id_
        for run in runs
        if run.generation == generation
        for id_ in range(run.first, run.last + 1)
    ]


def with_learned(
    learned: Mapping[int, int], interactions: Iterable[int], generation: int
) -> dict[int, int]:
    """Return `learned` with more interactions; one that was learned before stays as it was."""
    return {**dict.fromkeys(interactions, generation), **learned}
