"""How large a message may be: what is sent, what is read, and what cuts the connection.

A sender keeps to `bus.max_message_bytes`. What is larger and comes all the same is received and
refused unread: it costs its sender that message, and nobody else anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bus.errors import TOO_LARGE, BadMessage, CommandError

MAX_BYTES = 1 << 28
"""ZeroMQ cuts the connection of who sends more, for that would have to be held in memory."""

_HEAD = 1024  # bytes of an envelope in which its id is looked for
_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,100})"')


class Oversize(bytes):
    """The head of a message of `size` bytes that nobody reads, as at most `allowed` are."""

    size: int
    allowed: int

    @classmethod
    def of(cls, message: memoryview, allowed: int) -> Oversize:
        """Take note of a message without copying it."""
        head = cls(message[:_HEAD])
        head.size, head.allowed = len(message), allowed
        return head

    def refusal(self) -> BadMessage:
        """Say that it is too large, to the command that it was if that shows in its head."""
        found = _ID.search(self.partition(b'"payload"')[0])
        return BadMessage(
            f"message: has {self.size} bytes, at most {self.allowed} are read "
            "(bus.max_message_bytes)",
            found and found[1].decode(errors="replace"),
        )


def fitting(data: bytes, allowed: int, what: str) -> bytes:
    """`data`, which is to be sent. Raises CommandError `too_large`."""
    if len(data) > allowed:
        raise too_large(what, len(data), allowed)
    return data


def too_large(what: str, size: int, allowed: int, more: str = "") -> CommandError:
    """Say what has how many bytes too many; `more` where they were not counted to the end."""
    return CommandError(
        TOO_LARGE,
        f"{what} has {f'{size} {more}'.strip()} bytes, a message may have {allowed}: "
        "send or ask for less, or raise bus.max_message_bytes",
        {"bytes": size, "allowed": allowed},
    )


def min_bytes(args: Mapping[str, Any]) -> int:
    """What the texts among some arguments take at least, without encoding them."""
    return sum(len(each) for each in args.values() if isinstance(each, str))
