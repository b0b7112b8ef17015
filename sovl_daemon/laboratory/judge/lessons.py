"""Which simulated questions a probe is fitted on, and which it is scored by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sovl_daemon.laboratory.judge.cases import UNSEEN_TASKS, Case, draw, fitted_tasks, shuffled
from sovl_daemon.laboratory.judge.loads import HELD_OUT, SEEN

Group = Literal[
    "in-domain",
    "held-out families",
    "log lines",
    "unseen log lines",
    "unseen task",
    "unseen task, log lines",
]
TALKATIVE = ("steady", "edge", "ramp", "recovery")
"""Families that have calm moments, in which a line of the log can say more than the numbers."""

_EXAM_SEED = 7


def lessons(share: float = 1.0) -> list[Case]:
    """What a probe is fitted on: `share` of some 2,000 cases, in an order of chance."""
    cases: list[Case] = []
    for task in fitted_tasks():
        for family in SEEN:
            cases += draw(task, family, _count(20, share))
        for family in TALKATIVE:
            cases += draw(task, family, _count(22, share), evidence="lines")
            cases += draw(task, family, _count(6, share), evidence="both")
    return shuffled(cases)


def exam(share: float = 1.0) -> Mapping[Group, list[Case]]:
    """What it is scored by, by kind; none of these scenarios is among the lessons."""
    known, new = fitted_tasks(), list(UNSEEN_TASKS)
    return {
        "in-domain": _numbers(known, SEEN, _count(6, share)),
        "held-out families": _numbers(known, HELD_OUT, _count(12, share)),
        "log lines": _lines(known, _count(3, share), new_lines=False),
        "unseen log lines": _lines(known, _count(8, share), new_lines=True),
        "unseen task": _numbers(new, SEEN, _count(14, share)),
        "unseen task, log lines": _lines(new, _count(10, share), new_lines=True),
    }


def _count(whole: int, share: float) -> int:
    return max(2, round(whole * share))


def _numbers(tasks: list[str], families: tuple[str, ...], count: int) -> list[Case]:
    pairs = [(task, family) for task in tasks for family in families]
    return [case for task, family in pairs for case in draw(task, family, count, seed=_EXAM_SEED)]


def _lines(tasks: list[str], count: int, *, new_lines: bool) -> list[Case]:
    pairs = [(task, family) for task in tasks for family in TALKATIVE]
    return [
        case
        for task, family in pairs
        for case in draw(
            task, family, count, evidence="lines", new_lines=new_lines, seed=_EXAM_SEED
        )
    ]
