"""How tokens are chosen; plain values that a client may set."""

from collections.abc import Iterator
from dataclasses import dataclass

from sovl_daemon.engine.errors import OptionError

_MAX_SEED = 2**63 - 1
_MAX_COUNT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Range:
    low: float
    high: float
    meaning: str
    whole: bool = False

    def holds(self, value: object) -> bool:
        allowed = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            return False
        return self.low <= value <= self.high


_RANGES = {
    "temperature": _Range(0, 5, "0 is greedy"),
    "top_k": _Range(0, _MAX_COUNT, "0 is off", whole=True),
    "top_p": _Range(1e-6, 1, "1 is off"),
    "repetition_penalty": _Range(0.1, 10, "1 is off"),
    "max_new_tokens": _Range(1, _MAX_COUNT, "tokens of the answer", whole=True),
    "seed": _Range(0, _MAX_SEED, "none is random", whole=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How one answer is sampled, with the meanings transformers gives these names.

    `temperature` 0 takes the likeliest token each time; `top_k` keeps that many tokens (0: all);
    `top_p` keeps the likeliest tokens that together reach this probability (1: all);
    `repetition_penalty` above 1 makes tokens already seen less likely (1: off); `seed` makes the
    answer reproducible; `max_new_tokens` bounds its length.

    Raises:
        OptionError: a value is out of its range.

    """

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        for complaint in self._complaints():
            raise OptionError(complaint)

    def _complaints(self) -> Iterator[str]:
        for name, allowed in _RANGES.items():
            value = getattr(self, name)
            if (name, value) == ("seed", None) or allowed.holds(value):
                continue
            kind = "a whole number " if allowed.whole else ""
            yield (
                f"{name} {value!r} is not allowed: give {kind}from {allowed.low} to {allowed.high} "
                f"({allowed.meaning})"
            )
