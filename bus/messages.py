"""What is said over the command, control and event sockets. Events of agents: bus/topics.py."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from bus.envelope import Payload

HUNG = "hung"
BEAT_S = 1.0  # how often the broker tells a subscriber that it is there


class Command(Payload, kind="command"):
    """Please do this. The envelope's id names the command in all replies.

    `deadline_s`: seconds from arrival after which the command is cancelled and answered with
    the error `deadline`; None means the configured default, or none for a command that is long.
    """

    name: str = Field(min_length=1, max_length=100)
    args: dict[str, Any] = Field(default_factory=dict)
    deadline_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class Cancel(Payload, kind="cancel"):
    """Stop the command that `correlation` names. It still gets its one final reply."""


class Accepted(Payload, kind="accepted"):
    """The command is in hand; exactly one result or error will follow."""

    agent: str


class Progress(Payload, kind="progress"):
    """A step on the way: a piece of text, a share of the work."""

    data: dict[str, Any]


class Result(Payload, kind="result"):
    """Done. Final."""

    data: dict[str, Any]


class Failure(Payload, kind="error"):
    """Not done. Final. The codes are listed in docs/protocol.md."""

    code: str
    message: str
    detail: dict[str, Any] = Field(default_factory=dict)


class Subscribe(Payload, kind="subscribe"):
    """Send me the events of every topic that starts with one of `topics` ('' means all)."""

    topics: tuple[Annotated[str, Field(max_length=200)], ...] = Field(max_length=64)
    name: str = Field(default="", max_length=100)


class Welcome(Payload, kind="welcome"):
    """Every event from here on will reach you, or be missed in a way you can see.

    `seqs` is the last sequence number of each topic subscribed to; `epoch` changes when the
    broker restarts and counting begins anew. The retained last values follow at once.
    """

    epoch: str
    seqs: dict[str, int]


class Beat(Payload, kind="beat"):
    """The broker is there and you are still subscribed. Sent each second.

    `missed`: of topics whose events you could not be sent since the last beat, the last sequence
    number that you missed.
    """

    epoch: str
    missed: dict[str, int] = Field(default_factory=dict)


class Register(Payload, kind="register"):
    """An agent is ready for commands."""

    agent: str
    process: str
    pid: int


class Heartbeat(Payload, kind="heartbeat"):
    """An agent is alive: its state, and its counters for `stats`.

    With the state `hung` it says that its work is not: the detail says why, and it is ended. With
    `saving` it says that it writes something down that a stop waits for. `revision` is that of the
    settings it follows, and `refused` what it could not follow of them, in words.
    """

    agent: str
    state: str
    detail: str = ""
    saving: bool = False
    revision: int = 0
    refused: str = ""
    stats: dict[str, Any] = Field(default_factory=dict)


class Pause(Payload, kind="pause"):
    """Hub to agent: finish what runs, take no new commands (`paused`), or take them again."""

    paused: bool
