"""How often to look: seldom while all is well, often while something is about to happen."""

from __future__ import annotations

CALM_S = 1.0
URGENT_S = 0.1
EDGE_S = 0.03
"""Where a hard limit may be crossed before the next sample, or its duration runs."""

FASTEST = 0.1
"""The share of a scale that a metric may gain in a second when things go wrong."""

STALLED = 10.0
"""Share of time, in percent, that tasks wait for memory, from which on each sample counts."""


def sampling_interval_s(
    headroom: float,
    stalled: float = 0.0,
    *,
    verifying: bool = False,
    calm_s: float = CALM_S,
    urgent_s: float = URGENT_S,
    edge_s: float = URGENT_S,
) -> float:
    """Return how long to wait for the next sample, between `edge_s` and `calm_s` seconds.

    So long as a metric growing at the fastest could not cross its hard limit in between, as in
    earlyoom; `urgent_s` at most while tasks stall or an action's effect is awaited.

    Args:
        headroom: Smallest distance of a metric to its hard limit, as a share of its scale.
        stalled: PSI memory `some avg10`, in percent; 0 where the kernel does not tell.
        verifying: An action was just done and its effect is measured.
        calm_s: The longest interval.
        urgent_s: The longest interval while something is going on.
        edge_s: The shortest interval.

    """
    longest_s = urgent_s if verifying or stalled >= STALLED else calm_s
    return min(longest_s, max(edge_s, headroom / FASTEST))
