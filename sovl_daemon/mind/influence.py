"""How much of the scaffold's influence is let in while answering: dynamic cross-attention."""

from typing import Literal

from sovl_daemon.mind.confidence import NEUTRAL

InfluenceMode = Literal["confidence", "temperament"] | None

_LEAST = 0.5
_MOST = 2.0


def influence(mode: InfluenceMode, confidence: float | None, temperament: float) -> float:
    """Return the factor on the weight of cross-attention, in 0.5..2; 1 leaves it as it is.

    Mode "confidence" gives twice the mean `confidence` of the last answers (None: not known yet,
    which changes nothing); "temperament" gives 1 + `temperament`, the score in -1..1; None is 1.
    """
    if mode is None:
        return 1.0
    factor = 2 * _known(confidence) if mode == "confidence" else 1 + temperament
    return min(max(factor, _LEAST), _MOST)


def _known(confidence: float | None) -> float:
    return NEUTRAL if confidence is None else confidence
