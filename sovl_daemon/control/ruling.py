"""What the guard rules, and why, in words."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Kind = Literal["act", "relax", "hold", "grey"]
Cause = Literal[
    "hard limit",
    "rising",
    "grey zone",
    "all low",
    "not needed",
    "calm",
    "between",
    "not yet",
    "no reading",
    "still",
    "leap",
    "cool-down",
    "dwell",
    "rate limit",
    "asked lately",
    "nothing to relax",
]


class Ruling(NamedTuple):
    """What the guard rules, and why.

    `remaining_s` is how long the cause holds at least, or has held if it is `still`; `per_s` how
    fast the metric gets worse at least, in its unit a second.
    """

    kind: Kind
    cause: Cause
    metric: str = ""
    value: float = math.nan
    remaining_s: float = 0.0
    per_s: float = 0.0

    def words(self) -> str:
        """The cause as a sentence without its full stop."""
        sentence = _WORDS[self.cause]
        return sentence.format(
            metric=self.metric or "a metric",
            value=f"{self.value:.4g}",
            left=f"{self.remaining_s:.0f}",
        )


_WORDS: dict[Cause, str] = {
    "hard limit": "{metric} at {value} is beyond its hard limit",
    "rising": "{metric} at {value} is rising so fast that it would be too late to act later",
    "grey zone": "{metric} at {value} is in the grey zone, so the judge is asked",
    "all low": "every metric has been low for long enough",
    "not needed": "{metric} at {value} would stay clear of its hard limit without it",
    "calm": "every metric is low",
    "between": "{metric} at {value} is neither high enough to act nor low enough to relax",
    "not yet": "{metric} at {value} is beyond a threshold, but not for long enough",
    "no reading": "{metric} cannot be read, so nothing is relaxed",
    "still": "{metric} has been at {value} to the last digit for {left} s: its sensor may be stuck",
    "leap": "{metric} leapt to {value} just now, which the next readings have to confirm",
    "cool-down": "the last action still has {left} s to show its effect",
    "dwell": "the last move was the opposite one; {left} s of its dwell are left",
    "rate limit": "there were as many moves in the last hour as are allowed",
    "asked lately": "the judge was asked lately; it may be asked again in {left} s",
    "nothing to relax": "every metric is low, and nothing is degraded",
}
