"""Actions that failed twice are left alone for a while, longer each time."""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = 2
FIRST_S = 300.0
LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """The record of one action: failures in a row, and until when it is left alone.

    `until_s` is on the clock of whoever asks; 0 for an action that is free.
    """

    failures: int = 0
    until_s: float = 0.0
    backoff_s: float = 0.0

    def failed(self, now_s: float) -> CircuitBreaker:
        """After one more failed verification.

        The second in a row brings a quarantine of five minutes; after that each failure doubles
        it, up to a day, for an action on probation gets one try.
        """
        failures = self.failures + 1
        if failures < FAILURES:
            return CircuitBreaker(failures, self.until_s, self.backoff_s)
        backoff_s = min(LONGEST_S, 2 * self.backoff_s or FIRST_S)
        return CircuitBreaker(failures, now_s + backoff_s, backoff_s)

    def succeeded(self) -> CircuitBreaker:
        """After a verified effect: it starts anew."""
        return CircuitBreaker()

    def is_open(self, now_s: float) -> bool:
        """Whether the action is in quarantine now.

        Also when the clock was set back: a quarantine never lasts longer than its backoff.
        """
        return now_s < self.until_s <= now_s + self.backoff_s
