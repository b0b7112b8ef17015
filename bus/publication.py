"""How an event travels from publisher to broker, and what the broker adds to it."""

from __future__ import annotations

from typing import NamedTuple

from bus.envelope import Envelope
from bus.size import Oversize

_RETAIN = b"retain"
_PASS = b"-"
_HEAD = b'{"v":1,'  # what `stamp` relies on, and the version check of events


class Publication(NamedTuple):
    """An event on its way in. The broker does not parse `event`: that would cost it most."""

    topic: bytes
    retain: bool
    event: bytes


def write(topic: str, envelope: Envelope, *, retain: bool) -> bytes:
    """Topic, flag and event in one frame: a message of three frames takes a third longer."""
    flag = _RETAIN if retain else _PASS
    return b"%b %b %b" % (topic.encode(), flag, envelope.encode_event())


def read(parts: list[bytes]) -> Publication | None:
    """The publication in a message, None if it is not one."""
    words = parts[0].split(b" ", 2)
    if (
        isinstance(parts[0], Oversize)
        or len(parts) != 1
        or len(words) != 3
        or not words[2].startswith(_HEAD)
    ):
        return None
    return Publication(words[0], words[1] == _RETAIN, words[2])


def stamp(topic: bytes, seq: int, event: bytes) -> bytes:
    """Put topic and sequence number at the head of an encoded event without parsing it."""
    return b'{"topic":"%b","seq":%d,%b' % (topic, seq, event[1:])
