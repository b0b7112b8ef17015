"""Judges for the simulator: the stand-in for the model, and those that are broken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.regression import Regression
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


def coin(chance: random.Random, share: float) -> Opine:
    """A control: says true as often as the judge that it replaces, whatever it is asked."""
    return lambda question: Opinion(1.0, 0.0) if chance.random() < share else Opinion(0.0, 1.0)


def shuffled(
    chance: random.Random, judge: Regression, others: Sequence[dict[str, Reading]]
) -> Opine:
    """A control: the same judge, but it reads metrics of another moment."""

    def opine(question: Question) -> Opinion:
        return judge.opine(question._replace(readings=chance.choice(others)))

    return opine
