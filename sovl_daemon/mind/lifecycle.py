"""A life: how much of it is lived, and what its age does to influence and learning.

Knobs are those of the section `training_config`, by their names there. One unit runs through it
all, exposure: what unseen prompts give, and what the capacity is counted in.
"""

import math

from config.mind import TrainingConfig

TENTHS = 10
"""Age is counted in tenths of a life where a formula's numbers are made for 0 to 10."""

_EAGER = 0.5  # the temperament above which a prompt teaches more
_STEEPNESS = 2
_NIGHTS_SHARE = 0.5  # of the learning rate: a night learns more gently than training by hand


def capacity(parameters: int, training: TrainingConfig) -> float:
    """Return the exposure that a life can take: `parameters` * `lifecycle_capacity_factor`.

    `parameters` is how many parameters of the scaffold's LoRA adapters are trainable.

    Raises:
        ValueError: there is none.

    """
    if parameters < 1:
        raise ValueError(f"{parameters} trainable parameters are not allowed: give 1 or more")
    return parameters * training.lifecycle_capacity_factor


def exposure_gain(temperament: float, training: TrainingConfig) -> int:
    """Return the exposure that an unseen prompt gives to a mind of this temperament, -1..1.

    `exposure_gain_eager` above 0.5, else `exposure_gain_default`. A prompt counts once, when it is
    answered. SOVL once added the characters of all that a night trained on to the same sum, which
    let a life pass in a few nights; nights add nothing here.
    """
    return training.exposure_gain_eager if temperament > _EAGER else training.exposure_gain_default


def stage(exposure: float, capacity: float) -> float:
    """Return the part of a life that is lived: 0 at birth, 1 at its capacity, and on from there.

    Raises:
        ValueError: the exposure is negative, or the capacity not above 0.

    """
    if exposure < 0 or capacity <= 0:
        raise ValueError(
            f"exposure {exposure} of {capacity} is not allowed: give 0 or more of more than 0"
        )
    return exposure / capacity


def life_weight(stage: float, training: TrainingConfig) -> float:
    """Return the weight, in 0..1, of the scaffold's influence at this stage of a life.

    `exponential`: 1 - e^(-2 * stage); 0 at birth, 0.63 in the middle of a life, 0.86 at its end.

    `sigmoid_linear`: sigma(`sigmoid_scale` * (age - `sigmoid_shift`)), age in tenths of a life. By
    default (0.5 and 5.0) 0.08 at birth, 0.5 in the middle, 0.92 at the end. SOVL's formula had the
    stage itself there. Its numbers are made for 0 to 10: from birth to capacity the weight moved
    from 0.08 to 0.12, and reached 0.5 where the learning rate of a night is down to 0.7 %.

    This curve does not begin at 0, and is left so. Users expect two things that look opposed: that
    a newborn is the plain base, and that the first night can be heard. The weight comes into force
    at the end of a night, not before (`Mind.influence`), so a newborn has none; and were the curve
    pulled down to 0 at birth, what the first night taught would count for 0.002.
    """
    if training.lifecycle_curve == "exponential":
        return -math.expm1(-_STEEPNESS * stage)
    return _sigmoid(training.sigmoid_scale * (TENTHS * stage - training.sigmoid_shift))


def night_learning_rate(stage: float, training: TrainingConfig) -> float:
    """Return a night's learning rate, per step: `learning_rate` * 0.5 * e^(-stage)."""
    return training.learning_rate * _NIGHTS_SHARE * math.exp(-stage)


def _sigmoid(value: float) -> float:
    """1 / (1 + e^-value), in the form that does not overflow."""
    return (1 + math.tanh(value / 2)) / 2
