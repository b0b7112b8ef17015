"""The number of threads follows what steps take, on simulated machines."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from sovl_daemon.engine.thread.thread_count import ThreadCount, _ladder

CORES = 2
# Seconds of a row on two cores, by how many others keep a core busy and by threads: measured.
SPINNING = {0: {1: 0.050, 2: 0.035}, 1: {1: 0.048, 2: 0.286}, 2: {1: 0.065, 2: 0.093}}
SLEEPING = {0: {1: 0.020, 2: 0.014}, 1: {1: 0.027, 2: 0.031}, 2: {1: 0.036, 2: 0.042}}


@dataclass
class Machine:
    """Time that passes only as steps take it."""

    cost: Callable[["Machine", int], float]
    busy: int = 0
    cores: int = CORES
    now: float = 0.0
    noise: float = 0.1
    worked: float = 0.0
    best: float = 0.0  # what the same rows would have taken with the best number
    used: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(1)
        self.count = ThreadCount(lambda: max(1, self.cores - self.busy), self._idle)

    def step(self, rows: int = 1) -> int:
        threads = self.count.choose(self.now, self.cores)
        noise = 1 + self.random.uniform(-self.noise, self.noise)
        size = rows**0.5 * noise  # rows are cheaper together
        seconds = self.cost(self, threads) * size
        self.best += min(self.cost(self, each) for each in range(1, self.cores + 1)) * size
        self.worked += seconds
        self.now += seconds
        self.used.append(threads)
        self.count.took(self.now, rows, seconds)
        return threads

    def _idle(self, now: float) -> float:
        threads = self.used[-1] if self.used else 0
        return max(0, self.cores - self.busy - threads)

    def live(self, seconds: float, rows: Callable[[], int] = lambda: 1) -> None:
        until = self.now + seconds
        while self.now < until:
            self.step(rows())


def two_cores(table: dict[int, dict[int, float]]) -> Machine:
    return Machine(lambda machine, threads: table[machine.busy][threads])


@pytest.mark.parametrize("table", [SPINNING, SLEEPING])
@pytest.mark.parametrize("busy", [0, 1, 2])
def test_it_loses_little_against_the_best_fixed_number(
    table: dict[int, dict[int, float]], busy: int
) -> None:
    machine = two_cores(table)
    machine.busy = busy
    machine.live(60)
    assert machine.best / machine.worked > 0.93


@pytest.mark.parametrize(("table", "within_s"), [(SPINNING, 8), (SLEEPING, 3)])
def test_neighbours_come_and_go(table: dict[int, dict[int, float]], within_s: float) -> None:
    """Where threads spin, to try two of them beside a neighbour is dear, so it is done seldom."""
    machine = two_cores(table)
    machine.live(10)
    for busy, wanted in ((1, 1), (0, 2), (2, 1), (0, 2)):
        machine.busy = busy
        machine.live(within_s)
        assert machine.count.count == wanted, busy
        machine.live(7)
        assert machine.count.count == wanted


def test_a_neighbour_that_came_is_noticed_at_once_by_the_time_that_steps_take() -> None:
    machine = two_cores(SPINNING)
    machine.live(3)
    came, machine.busy = machine.now, 1
    while machine.count.count == 2:
        machine.step()
    assert machine.now - came < 2.5  # steps that take eight times as long, most of them


def test_near_equals_do_not_alternate() -> None:
    machine = Machine(lambda machine, threads: {1: 0.0205, 2: 0.02}[threads], noise=0.03)
    machine.live(5)
    first = machine.count.count
    for _ in range(2000):
        machine.step()
        assert machine.count.count == first


def test_steps_of_different_sizes_compare() -> None:
    """One token, then eight together, then parts of a prompt: less time a row, not more threads."""

    def cost(machine: Machine, threads: int) -> float:
        return SLEEPING[machine.busy][threads]

    machine = Machine(cost)
    machine.live(5, lambda: machine.random.choice([1, 1, 1, 8, 64]))
    assert machine.count.count == 2
    machine.busy = 1
    machine.live(12, lambda: machine.random.choice([1, 1, 1, 8, 64]))
    assert machine.count.count == 1


def test_rows_that_are_cheaper_together_are_no_reason_to_change() -> None:
    """A conversation joins and leaves."""
    machine = Machine(lambda machine, threads: SLEEPING[0][threads], noise=0.05)
    for turn in range(20):
        rows = (1, 8)[turn % 2]
        machine.live(1.0, partial(int, rows))
        assert turn < 4 or machine.count.count == 2


def test_long_steps_settle_by_few_of_them() -> None:
    machine = Machine(lambda machine, threads: 15 * SLEEPING[machine.busy][threads])
    machine.live(20)
    assert machine.count.count == 2
    machine.busy = 1
    machine.live(12)
    machine.busy = 0
    machine.live(8)
    assert machine.count.count == 2


def test_after_a_pause_it_begins_with_the_cores_that_are_free() -> None:
    machine = two_cores(SPINNING)
    machine.live(3)
    assert machine.count.count == 2
    machine.now += 60
    machine.busy = 1
    assert machine.step() == 1


def test_rare_steps_are_not_half_of_them_trials() -> None:
    machine = two_cores(SPINNING)
    machine.busy = 1
    for _ in range(400):
        machine.step()
        machine.now += 5
    tried = machine.used.count(2)
    assert tried * (SPINNING[1][2] - SPINNING[1][1]) < 0.15 * machine.worked


@pytest.mark.parametrize("busy", [0, 3, 8, 14])
def test_many_cores(busy: int) -> None:
    """Perfectly shared work; with more threads than free cores each waits for its slowest."""

    def cost(machine: Machine, threads: int) -> float:
        slow = 1.8 if threads > machine.cores - machine.busy else 1.0
        return 0.2 / threads * slow + 0.0003 * threads

    machine = Machine(cost, cores=16, busy=busy, noise=0.05)
    machine.live(5)
    machine.worked = machine.best = 0.0
    machine.live(20)
    assert machine.best / machine.worked > 0.8
    machine.busy = 15 - busy
    machine.live(12)
    machine.worked = machine.best = 0.0
    machine.live(20)
    assert machine.best / machine.worked > 0.8


def test_fewer_cores_than_before_hold_at_once() -> None:
    machine = two_cores(SLEEPING)
    machine.live(3)
    machine.cores = 1
    assert {machine.step() for _ in range(500)} == {1}


def test_the_numbers_that_are_tried() -> None:
    assert _ladder(1) == [1]
    assert _ladder(2) == [1, 2]
    assert _ladder(4) == [1, 2, 3, 4]
    assert _ladder(16) == [1, 2, 3, 4, 6, 9, 13, 15, 16]
