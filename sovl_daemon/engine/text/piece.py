"""What a generation hands to its consumer."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "repetition", "cancelled"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one finished answer.

    `cached_tokens` of the prompt were not read, because an earlier answer had read them.
    `generated_tokens` leaves out the stop token. `seconds_to_first_token` counts from the request,
    waiting included; None if there was no token. `tokens_per_second` is the pace after the first
    token, 0.0 with fewer than two. `probabilities` are, for each step, the likeliest token's in the
    model's own distribution.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    seconds_to_first_token: float | None
    tokens_per_second: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer and how many tokens it came from; the last has a summary."""

    text: str
    tokens: int
    summary: Summary | None = None
