"""What an engine holds and does at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts between two steps of the tensor thread.

    Attributes:
        precision: What the weights are held in, by the name of the setting: fp16, int8 or int4.
        bits: Bits of a weight in it.
        parameters: Weights of the base.
        max_concurrent: Answers that may advance together.
        running: Answers that do.
        waiting: Answers that wait for their turn.
        max_prefix_bytes: Bytes that may be kept of ended answers.
        prefix_bytes: Bytes that are.
        answer_bytes: Bytes of keys and values of running answers.

    """

    precision: str
    bits: int
    parameters: int
    max_concurrent: int
    running: int
    waiting: int
    max_prefix_bytes: int
    prefix_bytes: int
    answer_bytes: int
