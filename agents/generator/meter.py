"""What the generator counts of its answers, as gauges for the health monitor."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sovl_daemon.control.sources.gauges import Rate

WINDOW_S = 60.0


class Meter:
    """Counts answers; times are in seconds on the monotonic clock."""

    def __init__(self) -> None:
        self._answers = Rate(WINDOW_S)
        self._tokens = Rate(WINDOW_S)
        self._last = -math.inf, 0.0  # when, and its latency
        self._context = 0.0

    def answered(
        self, now_s: float, tokens: int, first_token_s: float | None, context: float = 0.0
    ) -> None:
        """Count an answer; `context` is the share of the context that it and its prompt took."""
        self._answers.add(now_s)
        self._context = context
        self._tokens.add(now_s, tokens)
        if first_token_s is not None:
            self._last = now_s, first_token_s

    def failed(self, now_s: float) -> None:
        """Count an answer that ended with an error of the engine."""
        self._answers.add(now_s, failed=True)

    def gauges(self, now_s: float) -> Mapping[str, float]:
        """The values now. The latency is the last answer's, 0 if nobody was answered of late."""
        answered_s, latency_s = self._last
        lately = now_s - answered_s < WINDOW_S
        return {
            "tokens.rate": self._tokens.per_s(now_s),
            "errors.rate": self._answers.failed_percent(now_s),
            "latency.first_token_s": latency_s if lately else 0.0,
            "tokens.context_percent": 100.0 * self._context if lately else 0.0,
        }
