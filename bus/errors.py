"""What can go wrong on the wire. Every error has a stable code that clients can branch on."""

from __future__ import annotations

from typing import Any


class BusError(Exception):
    """Anything wrong on the bus."""


class BadMessage(BusError):
    """Bytes that are not an envelope of this protocol version.

    `asked` is the id of the message where that could be read all the same.
    """

    def __init__(self, message: str, asked: str | None = None) -> None:
        super().__init__(message)
        self.asked = asked


class FatalError(Exception):
    """An agent cannot run and starting it again would not help (a model that does not exist)."""


class TransientError(Exception):
    """An agent cannot run now, for a reason that passes; starting it again will help in time."""


class BindProblem(BusError):
    """An address that cannot be listened on."""


class CommandError(BusError):
    """A command that was not carried out.

    `code` is one of the codes of docs/protocol.md, `message` one line for a person and
    `detail` machine-readable facts (for example the nearest command).
    """

    def __init__(self, code: str, message: str, detail: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail or {}


BAD_MESSAGE = "bad_message"
BAD_COMMAND = "bad_command"
BAD_ARGUMENT = "bad_argument"
TOO_LARGE = "too_large"
BUSY = "busy"
CANCELLED = "cancelled"
DEADLINE = "deadline"
AGENT_LOST = "agent_lost"
AGENT_FAILED = "agent_failed"
DUPLICATE = "duplicate_id"
INTERNAL = "internal"
STOPPING = "stopping"
ENGINE = "engine"
UNAVAILABLE = "unavailable"
