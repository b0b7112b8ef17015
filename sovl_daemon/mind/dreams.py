"""What starts a dream, what it is about, and what stays of it.

Knobs are those of the section `controls_config`, by their names there.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from config.controls import ControlsConfig
from sovl_daemon.mind.history import History
from sovl_daemon.mind.temperament import Temperament, mood

T = TypeVar("T")

DreamReason = Literal["swing", "shift", "drift"]
"""swing: confidence varies; shift: the temperament moved since the last dream; drift: it has been
moving away from where its history begins."""

QUESTIONS_A_DREAM = 3
"""How many curiosity questions a dream leaves behind."""

_CONFIDENCES_NEEDED = 5
_DRIFT = 0.3
_LOUDEST = 0.1


def dream_reason(
    confidences: History, temperament: Temperament, dreamt_at: float, knobs: ControlsConfig
) -> DreamReason | None:
    """Return why a dream starts now, None if none does.

    It takes 5 `confidences` of answers, and one of: their variance above `dream_swing_var`; a
    temperament more than `dream_lifecycle_delta` away from `dreamt_at`, its score at the last
    dream; and, with `dream_temperament_on`, a history of scores whose mean is more than 0.3 away
    from its first. Never where `enable_dreaming` is off.
    """
    if not knobs.enable_dreaming or len(confidences) < _CONFIDENCES_NEEDED:
        return None
    if confidences.variance > knobs.dream_swing_var:
        return "swing"
    if abs(temperament.score - dreamt_at) > knobs.dream_lifecycle_delta:
        return "shift"
    scores = temperament.history
    if knobs.dream_temperament_on and scores.mean is not None:
        return "drift" if abs(scores.mean - scores.values[0]) > _DRIFT else None
    return None


def choice_weights(similarities: Sequence[float], knobs: ControlsConfig) -> tuple[float, ...]:
    """Return how likely each interaction is to be dreamt of, the sum being 1.

    `similarities` has for each interaction, the oldest first, the cosine of its prompt to the last
    prompt; what points away, below 0, is as far as can be. Each weighs `dream_prompt_weight` *
    similarity + (1 - `dream_prompt_weight`) * recency, which rises evenly to 1 for the newest. With
    `enable_prompt_driven_dreams` off recency decides alone; where nothing has any weight, chance.
    """
    count = len(similarities)
    prompt = knobs.dream_prompt_weight if knobs.enable_prompt_driven_dreams else 0.0
    weights = [
        prompt * max(0.0, similarity) + (1 - prompt) * (index + 1) / count
        for index, similarity in enumerate(similarities)
    ]
    total = sum(weights)
    return tuple(weight / total if total else 1 / count for weight in weights)


def choose(weights: Sequence[float], rng: random.Random) -> int:
    """Return the index that `rng` picks by these weights.

    Raises:
        ValueError: there is nothing to pick from.

    """
    if not weights:
        raise ValueError("no interactions to dream of: live through one first")
    return rng.choices(range(len(weights)), weights)[0]


def noise(score: float, unseen: bool, knobs: ControlsConfig) -> float:
    """Return the standard deviation of the noise on what is dreamt, 0.1 at most.

    `dream_noise_scale`, and `temp_melancholy_noise` more if the temperament's `score` is
    melancholic, and `dream_novelty_boost` more if the prompt was `unseen` in dreams so far.
    """
    amount = knobs.dream_noise_scale
    if mood(score, knobs) == "melancholic":
        amount += knobs.temp_melancholy_noise
    if unseen:
        amount += knobs.dream_novelty_boost
    return min(_LOUDEST, amount)


@dataclass(frozen=True)  # slots would forbid Dream[str]() in Python 3.11
class Dream(Generic[T]):
    """What was dreamt, and how much of it is left, in 0..1.

    Raises:
        ValueError: the weight is out of its range.

    """

    content: T
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"dream weight {self.weight} is not allowed: give 0 to 1")


@dataclass(frozen=True)  # slots would forbid DreamMemory[str]() in Python 3.11
class DreamMemory(Generic[T]):
    """The dreams that are remembered, the newest last."""

    dreams: tuple[Dream[T], ...] = ()

    def __len__(self) -> int:
        return len(self.dreams)

    def add(self, content: T, knobs: ControlsConfig) -> "DreamMemory[T]":
        """Return the memory after one more dream.

        The weights of the old ones are multiplied by `dream_memory_decay`, those that fall below
        `dream_prune_threshold` are forgotten, the new one has weight 1, and of more than
        `dream_memory_maxlen` the oldest go.
        """
        faded = (replace(old, weight=old.weight * knobs.dream_memory_decay) for old in self.dreams)
        kept = (old for old in faded if old.weight >= knobs.dream_prune_threshold)
        return DreamMemory((*kept, Dream(content))[-knobs.dream_memory_maxlen :])

    def blending(self, knobs: ControlsConfig) -> tuple[float, ...]:
        """Return each dream's share of the scaffold's context; the rest is the prompt's own.

        Together `dream_memory_weight`, by the weights of the dreams; without dreams nothing.
        """
        total = sum(dream.weight for dream in self.dreams)
        if not total:
            return (0.0,) * len(self.dreams)
        return tuple(knobs.dream_memory_weight * dream.weight / total for dream in self.dreams)
