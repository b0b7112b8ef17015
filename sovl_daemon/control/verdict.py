"""What leaves the judge: true, false or an abstention, with a confidence."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, NamedTuple

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.prompt import JudgePrompt
from sovl_daemon.control.task import Task

Answer = Literal["true", "false", "abstain"]

MIN_MASS = 0.5
"""If true and false together have less probability than this, the judge did not answer at all."""


class JudgeQuestion(NamedTuple):
    """What is put to a judge: a task, its sound readings, and the prompt made of them."""

    task: Task
    readings: dict[str, Reading]
    prompt: JudgePrompt
    asked_s: float


class Opinion(NamedTuple):
    """The raw output of a judge.

    `p_true` and `p_false` are probabilities of the two answers among all there are; `recommended`
    names the action it would take, or is empty, and `sure` how surely that is enough, 0 to 1.
    `band` is half the width of the band around 0.5 in which the judge itself abstains.
    """

    p_true: float
    p_false: float
    recommended: str = ""
    sure: float = 0.0
    band: float = 0.0


class Verdict(NamedTuple):
    """A checked opinion. `confidence`, 0 to 1, is that of the answer; 0 where there is none.

    `recommended` is the action that the judge would take, `sure` how surely that is enough.
    """

    answer: Answer
    confidence: float
    reason: str = ""
    recommended: str = ""
    sure: float = 0.0


def verdict(opinion: Opinion, abstain: float = 0.1, actions: Collection[str] = ()) -> Verdict:
    """Check an opinion and return what may be acted upon.

    It abstains where the probabilities are none, where they are invalid together (below 0.5: the
    judge wanted to say something else), and where the share of true among the two lies within
    `abstain` or the judge's own band of 0.5. A recommendation that is not among `actions` is
    dropped.
    """
    both = (opinion.p_true, opinion.p_false)
    if not all(math.isfinite(p) and 0 <= p <= 1 for p in both) or sum(both) > 1 + 1e-6:
        return Verdict("abstain", 0.0, f"{both[0]} and {both[1]} are no probabilities")
    mass = sum(both)
    if mass < MIN_MASS:
        return Verdict("abstain", 0.0, f"true and false have only {mass:.2f} of the probability")
    share = opinion.p_true / mass
    if abs(share - 0.5) <= max(abstain, opinion.band):
        return Verdict("abstain", max(share, 1 - share), f"undecided at {share:.2f}")
    recommended = opinion.recommended if opinion.recommended in actions else ""
    if share > 0.5:
        sure = opinion.sure if recommended else 0.0
        return Verdict("true", share, recommended=recommended, sure=sure)
    return Verdict("false", 1 - share)


LATE = Verdict("abstain", 0.0, "no verdict in time")
