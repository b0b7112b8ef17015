"""Whose work comes first on the tensor thread."""

from enum import IntEnum


class Priority(IntEnum):
    """Lower numbers are served first; a lower priority runs only while no higher one has work."""

    JUDGE = 0
    CONVERSATION = 1
    CURIOSITY = 2
    TRAINING = 3
