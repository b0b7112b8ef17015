"""How sure the model was of an answer."""

import statistics
from collections.abc import Sequence

NEUTRAL = 0.5
"""Confidence where nothing is known: neither sure nor unsure."""

_FLAT = 0.2
_HARDLY_VARIES = 1e-5


def answer_confidence(probabilities: Sequence[float]) -> float:
    """Return the confidence of an answer, in 0..1.

    `probabilities` has, for each generated token, the likeliest token's probability in the model's
    own distribution. The confidence is their mean; 0.5 if nothing was generated; and 0.2 if there
    are two or more that hardly vary (variance below 1e-5), because a model that is equally sure of
    every token is no longer reading them: it loops, or it is broken.
    """
    if not probabilities:
        return NEUTRAL
    if len(probabilities) > 1 and statistics.pvariance(probabilities) < _HARDLY_VARIES:
        return _FLAT
    return statistics.fmean(probabilities)
