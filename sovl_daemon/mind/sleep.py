"""When it falls asleep and when it wakes.

Decisions on times that are passed in: seconds of one monotonic clock. Knobs are those of the
section `controls_config`, by their names there.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from config.controls import ControlsConfig
from sovl_daemon.mind.confidence import NEUTRAL
from sovl_daemon.mind.lifecycle import TENTHS

SleepReason = Literal["ready", "tired"]
"""ready: much to learn, and sure of itself; tired: much lived, unsure, or long awake."""

WakeReason = Literal["called", "failed", "rested"]
"""called: somebody wants it awake; failed: the night went wrong; rested: all is learned, as well as
the time allowed."""

AWAKE_AT_LEAST_S = 60.0
ABORT_COOLDOWN_S = 120.0
TIRED = 0.7
"""The tiredness above which it falls asleep."""

_HOUR_S = 3600.0
_TIRING_HOURS = 2
_HARDENING = 0.01  # for each tenth of a life
_SECONDS_AN_ENTRY = 60.0
_LONGEST_NIGHT_S = 8 * _HOUR_S


def ready(entries: int, confidence: float | None, knobs: ControlsConfig) -> bool:
    """Whether there is enough to learn, and it is sure enough to learn it.

    At least `sleep_log_min` interactions that no night has consumed, `entries`, and a mean
    `confidence` above `sleep_conf_threshold`; None, not known yet, does not hold it back.
    """
    if entries < knobs.sleep_log_min:
        return False
    return confidence is None or confidence > knobs.sleep_conf_threshold


def tiredness(
    entries: int, confidence: float | None, awake_s: float, stage: float, knobs: ControlsConfig
) -> float:
    """Return how tired it is, in 0..1.

    0.4 for `sleep_log_min` new `entries`, 0.3 for no `confidence` at all (None counts as 0.5), 0.3
    for two hours awake, each in proportion and no more; times e^(-0.01 * age), `stage` being the
    part of its life that is lived and age the tenths of it. SOVL had the bare exposure for the age:
    after 36 of it, 18 prompts, nothing could ever have tired it again. A life beyond its capacity
    grows no older, so that age takes a tenth of all tiredness and never the last of it.
    """
    unsure = 1 - (NEUTRAL if confidence is None else confidence)
    full = min(1.0, entries / knobs.sleep_log_min)
    long = min(1.0, max(0.0, awake_s) / (_TIRING_HOURS * _HOUR_S))
    hardened = math.exp(-_HARDENING * TENTHS * min(stage, 1))
    return (0.4 * full + 0.3 * unsure + 0.3 * long) * hardened


def longest_night(entries: int, knobs: ControlsConfig) -> float:
    """Return how many seconds a night over so many `entries` may last.

    `sleep_time_factor` minutes for each of them, one at least, eight hours at most: about twice
    what training takes on two slow cores.
    """
    wanted = knobs.sleep_time_factor * _SECONDS_AN_ENTRY * max(1, entries)
    return min(wanted, _LONGEST_NIGHT_S)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Since when it is awake or asleep, in seconds of the monotonic clock.

    No part of the mind that is kept: such times mean nothing after a restart, which counts as
    waking.
    """

    woke_at: float
    asleep_since: float | None = None
    aborted_at: float | None = None

    def awake_s(self, now: float) -> float:
        """Seconds awake; 0 while it sleeps."""
        return now - self.woke_at if self.asleep_since is None else 0.0

    def fell_asleep(self, now: float) -> "Rhythm":
        """Return the rhythm of one that sleeps from now on."""
        return replace(self, asleep_since=now)

    def woke(self, now: float, reason: WakeReason) -> "Rhythm":
        """Return the rhythm of one that is awake from now on; `called` and `failed` are aborts."""
        aborted_at = now if reason in ("called", "failed") else self.aborted_at
        return Rhythm(now, None, aborted_at)

    def may_sleep(self, now: float) -> bool:
        """Whether it is awake, since 60 s at least, and the last aborted night is 120 s ago."""
        if self.asleep_since is not None or self.awake_s(now) < AWAKE_AT_LEAST_S:
            return False
        return self.aborted_at is None or now - self.aborted_at >= ABORT_COOLDOWN_S


def sleep_reason(
    rhythm: Rhythm,
    now: float,
    *,
    entries: int,
    confidence: float | None,
    stage: float,
    knobs: ControlsConfig,
) -> SleepReason | None:
    """Return why it falls asleep by itself now, None while it stays awake.

    Never where `enable_gestation` is off. Being ready needs confidence, and one that lacks it would
    never sleep: tiredness is for that one. With nothing to learn no mind is tired enough.
    """
    if not knobs.enable_gestation or not rhythm.may_sleep(now):
        return None
    if ready(entries, confidence, knobs):
        return "ready"
    tired = tiredness(entries, confidence, rhythm.awake_s(now), stage, knobs)
    return "tired" if tired > TIRED else None
