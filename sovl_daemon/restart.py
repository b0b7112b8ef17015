"""How often a child may be restarted, and how soon. Pure: the caller brings clock and chance."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from config.service import SupervisionSettings


@dataclass(frozen=True)
class RestartPolicy:
    """Restart intensity as in Erlang/OTP, with exponential backoff, a cap and jitter.

    More than `intensity` failures within `window_s` seconds are too many. The n-th restart in
    the window waits `initial_s * 2**(n-1)`, at most `maximum_s`, plus or minus the share `jitter`.
    """

    intensity: int
    window_s: float
    initial_s: float
    maximum_s: float
    jitter: float

    @classmethod
    def of(cls, settings: SupervisionSettings) -> RestartPolicy:
        """The policy that the settings describe."""
        return cls(
            settings.restart_intensity,
            settings.restart_window_s,
            settings.backoff_initial_s,
            settings.backoff_max_s,
            settings.backoff_jitter,
        )


class RestartHistory:
    """The failures of one child."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures: deque[float] = deque()

    def delay(self, now: float, chance: float) -> float | None:
        """Note a failure at `now`; seconds until the restart, or None to give up.

        `chance` is uniform in 0..1.
        """
        policy = self._policy
        self._failures.append(now)
        while self._failures[0] <= now - policy.window_s:
            self._failures.popleft()
        if len(self._failures) > policy.intensity:
            return None
        delay = min(policy.maximum_s, policy.initial_s * 2.0 ** (len(self._failures) - 1))
        return delay * (1 + policy.jitter * (2 * chance - 1))
