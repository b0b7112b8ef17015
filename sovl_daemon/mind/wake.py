"""The first words of a life."""

from dataclasses import dataclass

from config.controls import ControlsConfig


@dataclass(frozen=True, slots=True)
class WakeOptions:
    """How the first words are sampled: few of them, and wildly."""

    temperature: float = 1.7
    top_k: int = 30
    max_tokens: int = 15


def wakes(has_woken: bool, knobs: ControlsConfig) -> bool:
    """Whether a mind says its first words now: once a life, if `has_woken` is not set for it."""
    return not (has_woken or knobs.has_woken)
