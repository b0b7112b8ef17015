"""What an engine holds and does at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts that may be a step of the tensor thread apart from each other.

    Attributes:
        precision: What the weights are held in, by the name of the setting: fp16, int8 or int4.
        offloaded: Whether they stay in their file instead, for now.
        bits: Bits of a weight in memory.
        switchable: Whether they can be held otherwise.
        cores: Cores that the process keeps to; 0 for all that it was given.
        threads: CPU threads of each kind of work that there was, where they are not fixed.
        parameters: Weights of the base.
        max_concurrent: Answers that may advance together.
        running: Answers that do.
        waiting: Answers that wait for their turn.
        max_prefix_bytes: Bytes that may be kept of ended answers.
        prefix_bytes: Bytes that are.

    """

    precision: str
    offloaded: bool
    bits: int
    switchable: bool
    cores: int
    threads: dict[str, int]
    parameters: int
    max_concurrent: int
    running: int
    waiting: int
    max_prefix_bytes: int
    prefix_bytes: int
