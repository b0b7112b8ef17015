"""Judges for the simulator: the stand-in for the model, and those that are broken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.regression import Regression
from sovl_daemon.control.simulator.baselines import MEMORY
from sovl_daemon.control.task import Task
from sovl_daemon.control.verdict import Opinion, Question

Opine = Callable[[Question], Opinion]


class TimedJudge(NamedTuple):
    """A judge and the seconds it takes, from least to most."""

    opine: Opine
    takes_s: tuple[float, float] = (0.1, 0.4)


def constant(p_true: float) -> Opine:
    """A judge that always says the same."""
    return lambda question: Opinion(p_true, 1.0 - p_true)


def garbage(chance: random.Random) -> Opine:
    """A judge whose output is no answer: other words, or numbers that are no probabilities."""
    outputs = (Opinion(0.1, 0.05), Opinion(float("nan"), 0.5), Opinion(0.9, 0.8), Opinion(-1, 2))
    return lambda question: chance.choice(outputs)


def perfect(peaks: Sequence[float], limit: float) -> Opine:
    """The bound of what a judge can do inside the guard: it knows the demand that is to come.

    `peaks` has for each second the highest demand of the next minute. It recommends the cheapest
    action that is expected to keep it below `limit`, or the strongest.
    """

    def opine(question: Question) -> Opinion:
        excess = peaks[int(question.asked_s)] - limit
        return Opinion(*_sure(excess >= 0), _enough(question.task, excess))

    return opine


def _enough(task: Task, excess: float) -> str:
    reliefs = {rung.action: rung.relief.get(MEMORY, 0.0) for rung in task.ladder}
    enough = (action for action, relief in reliefs.items() if relief >= excess)
    return next(enough, max(reliefs, key=lambda action: reliefs[action]))


def _sure(answer: bool) -> tuple[float, float]:
    return (1.0, 0.0) if answer else (0.0, 1.0)


def coin(chance: random.Random, share: float) -> Opine:
    """A control: says true as often as the judge that it replaces, whatever it is asked."""
    return lambda question: Opinion(*_sure(chance.random() < share))


def shuffled(
    chance: random.Random, judge: Regression, others: Sequence[dict[str, Reading]]
) -> Opine:
    """A control: the same judge, but it reads metrics of another moment."""

    def opine(question: Question) -> Opinion:
        return judge.opine(question._replace(readings=chance.choice(others)))

    return opine
