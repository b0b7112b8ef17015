"""What a run is measured by."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sovl_daemon.laboratory.control.run import HARD, Run

OOM_S = 300.0
"""What running out of memory costs, in seconds of bad service: a restart, lost conversations."""

MOVE_S = 2.0
"""What a move costs: conversations stand still while a setting changes."""

WEIGHTS = {
    "limit_admission": 0.1,
    "shrink_context": 0.2,
    "quantize_int8": 0.3,
    "offload_weights": 0.6,
}
"""What a second in a degraded setting costs."""

SOON_S = 60
FLAP_S = 120.0


@dataclass(frozen=True, slots=True)
class Measures:
    """One hour in figures.

    Attributes:
        ooms: How often memory ran out.
        flaps: Moves within two minutes of the opposite one.
        moves: Settings that were put into force or taken back.
        degraded_s: Time with any setting in force.
        needless_s: The part of it in which demand stayed below the hard limit for a minute to come.
        act_s: Mean time from memory crossing the hard limit to an action's measured effect, a
            minute at most, or if none came before it ran out; not a number if it never crossed it.
        questions: How often the judge was asked.
        invalid: How often something was begun on what was no sound reading, or no valid opinion.
        failures: Actions whose effect was not found, and so were reverted.
        wrongly: Those of them that had not lied.
        cost_s: 300 s for each OOM, 2 s a move, and degraded seconds by the weight of the setting.

    """

    ooms: float
    flaps: float
    moves: float
    degraded_s: float
    needless_s: float
    act_s: float
    questions: float
    invalid: float
    failures: float
    wrongly: float
    cost_s: float


def measure(run: Run, demand: Sequence[float]) -> Measures:
    """Measure a run; `demand` is what would have been in use at each second had nobody acted."""
    peaks = coming_peaks(demand)
    weighted = sum(WEIGHTS[setting] * seconds for setting, seconds in run.seconds.items())
    waits = [min(float(SOON_S), wait) for wait in run.waits]
    return Measures(
        ooms=len(run.ooms),
        flaps=sum(a[1] != b[1] and b[0] - a[0] < FLAP_S for a, b in pairwise(run.moves)),
        moves=len(run.moves),
        degraded_s=math.fsum(seconds for _, seconds in run.degraded),
        needless_s=math.fsum(s for at_s, s in run.degraded if peaks[int(at_s)] < HARD),
        act_s=math.fsum(waits) / len(waits) if waits else math.nan,
        questions=run.questions,
        invalid=run.invalid,
        failures=run.failures,
        wrongly=run.false_failures,
        cost_s=OOM_S * len(run.ooms) + MOVE_S * len(run.moves) + weighted,
    )


def coming_peaks(demand: Sequence[float], seconds: int = SOON_S) -> list[float]:
    """For each second the highest demand from there to `seconds` later."""
    peaks = [0.0] * len(demand)
    highest: deque[int] = deque()  # indices, with falling values
    for index in reversed(range(len(demand))):
        while highest and demand[highest[-1]] <= demand[index]:
            highest.pop()
        highest.append(index)
        if highest[0] > index + seconds:
            highest.popleft()
        peaks[index] = demand[highest[0]]
    return peaks
