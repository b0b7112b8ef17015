"""Judges for the simulator: the stand-in for the model, and those that are broken."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.prompt import JudgePrompt
from sovl_daemon.control.verdict import JudgeQuestion, Opinion
from sovl_daemon.laboratory.control.plant import Plant
from sovl_daemon.laboratory.control.regression import Regression

Opine = Callable[[JudgeQuestion], Opinion]

AHEAD_S = 60
"""How far ahead a judge is asked to see."""

_MIN_P = 1e-6


class TimedJudge(NamedTuple):
    """A judge and the seconds it takes, from least to most."""

    opine: Opine
    takes_s: tuple[float, float] = (0.1, 0.4)


def constant(p_true: float) -> Opine:
    """A judge that always says the same."""
    return lambda question: Opinion(p_true, 1.0 - p_true)


def garbage(rng: random.Random) -> Opine:
    """A judge whose output is no answer: other words, or numbers that are no probabilities."""
    outputs = (Opinion(0.1, 0.05), Opinion(float("nan"), 0.5), Opinion(0.9, 0.8), Opinion(-1, 2))
    return lambda question: rng.choice(outputs)


def perfect(plant: Plant, limit: float) -> Opine:
    """The bound of what a judge can do inside the guard: it lives on in copies of the plant.

    True is that memory in use, with what is in force, reaches `limit` within a minute. It
    recommends the cheapest action that keeps memory below it, or the strongest.
    """

    def opine(question: JudgeQuestion) -> Opinion:
        if _peak(plant) < limit:
            return Opinion(0.0, 1.0)
        free = [rung.action for rung in question.task.ladder if rung.action not in plant.settings]
        peaks = {action: _peak(plant, action) for action in free}
        enough = (action for action, peak in peaks.items() if peak < limit)
        best = min(peaks, key=lambda action: peaks[action], default="")
        return Opinion(1.0, 0.0, next(enough, best))

    return opine


def _peak(plant: Plant, action: str = "") -> float:
    """The most that will be in use within a minute, if an action is done now or none."""
    future = plant.copy(mortal=False)
    if action:
        future.land(action, True, 0.0)
    highest = 0.0
    for second in range(AHEAD_S + 1):
        future.advance(plant.now_s + second)
        highest = max(highest, future.used())
    return highest


def _sure(answer: bool) -> tuple[float, float]:
    return (1.0, 0.0) if answer else (0.0, 1.0)


def mistaken(opine: Opine, rng: random.Random, share: float) -> Opine:
    """A judge whose answer is turned round in a share of the cases."""

    def answer(question: JudgeQuestion) -> Opinion:
        said = opine(question)
        turned = Opinion(said.p_false, said.p_true)
        return turned if rng.random() < share else said

    return answer


def blurred(opine: Opine, rng: random.Random, deviation: float) -> Opine:
    """A judge with normal noise added to its log-odds."""

    def answer(question: JudgeQuestion) -> Opinion:
        said = opine(question)
        p = min(1 - _MIN_P, max(_MIN_P, said.p_true / (said.p_true + said.p_false)))
        noisy = math.log(p / (1 - p)) + rng.gauss(0.0, deviation)
        p = (1.0 + math.tanh(noisy / 2.0)) / 2.0
        return Opinion(p, 1.0 - p)

    return answer


def outside(ask: Callable[[JudgePrompt], Opinion]) -> Opine:
    """A judge that reads the prompt alone, as the language model does.

    The same prompt is put to it only once.
    """
    known: dict[str, Opinion] = {}

    def answer(question: JudgeQuestion) -> Opinion:
        text = question.prompt.text
        if text not in known:
            known[text] = ask(question.prompt)
        return known[text]

    return answer


def coin(rng: random.Random, share: float) -> Opine:
    """A control: says true as often as the judge that it replaces, whatever it is asked."""
    return lambda question: Opinion(*_sure(rng.random() < share))


def shuffled(rng: random.Random, judge: Regression, others: Sequence[dict[str, Reading]]) -> Opine:
    """A control: the same judge, but it reads metrics of another moment."""

    def opine(question: JudgeQuestion) -> Opinion:
        return judge.opine(question._replace(readings=rng.choice(others)))

    return opine
