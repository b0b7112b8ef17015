"""What a generation hands to its consumer."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one finished answer.

    `cached_tokens` of the prompt were not read, because an earlier answer had read them.
    `generated_tokens` leaves out the stop token. `seconds_to_first_token` counts from the request,
    waiting included; None if there was no token. `tokens_per_second` is the pace after the first
    token, 0.0 with fewer than two. `mean_probability` is the mean, over all steps, of the
    likeliest token's probability in the model's own distribution; None if there was no step.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    seconds_to_first_token: float | None
    tokens_per_second: float
    mean_probability: float | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer and how many tokens it came from; the last has a summary."""

    text: str
    tokens: int
    summary: Summary | None = None
