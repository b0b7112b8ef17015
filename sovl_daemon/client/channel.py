"""One socket to the daemon, and what ZeroMQ tells of its connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import zmq
from zmq.utils.monitor import parse_monitor_message

from bus.async_socket import LINGER_S, AsyncSocket
from bus.caller import Caller
from bus.envelope import Envelope, decode, new_id
from bus.errors import BadMessage
from bus.messages import Cancel, Command
from bus.size import fitting, min_bytes, too_large
from sovl_daemon.client.errors import ClientError, DaemonDown, DaemonSlow, WrongKey
from sovl_daemon.client.target import Target

QUEUE = 100_000
MAX_BYTES = 1 << 20  # until the daemon has said how much it reads

# Only these: ZeroMQ's own thread hangs for good once 2000 events lie unread, and each attempt to
# connect to a daemon that is down makes three others.
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)


class Channel:
    """A caller over a socket of its own. `on_lost` is called when the connection goes away.

    What has more than `max_bytes` is refused here, with a CommandError, before it is sent. `losses`
    counts how often the connection went away.
    """

    def __init__(
        self, target: Target, address: str, *, source: str, on_lost: Callable[[], None]
    ) -> None:
        self.caller = Caller(self._send, source=source)
        self.max_bytes = MAX_BYTES
        self.losses = 0
        self._target = target
        self._on_lost = on_lost
        self._up = anyio.Event()
        self._greeted = self._refused = False
        self._port = AsyncSocket(zmq.DEALER, queue=QUEUE, **target.options)
        monitor = f"inproc://monitor-{new_id()}"
        self._port.socket.monitor(monitor, _EVENTS)
        self._events = AsyncSocket(zmq.PAIR).connect(monitor)
        self._port.connect(address)

    async def run(self) -> None:
        """Take in replies until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._port.drain, self._feed)
            tasks.start_soon(self._events.drain, self._note)

    async def up(self) -> None:
        """Wait for the connection."""
        await self._up.wait()

    def problem(self, waited_s: float) -> ClientError:
        """Why there was no answer for `waited_s` seconds."""
        title = self._target.title
        if self._up.is_set():
            return DaemonSlow(f"the daemon at {title} gave no answer within {waited_s:g} s")
        if self._refused and self._target.options:
            return WrongKey(f"{title} refused the keys; see: sovl keys allow")
        if self._refused:
            return DaemonDown(f"what listens at {title} is no SOVL daemon of this version")
        if self._greeted:
            return DaemonSlow(f"somebody listens at {title}, but said nothing for {waited_s:g} s")
        return DaemonDown(f"no SOVL daemon answers at {title}; start it with: sovl run")

    def close(self) -> None:
        """Hang up; what was just sent still leaves."""
        self._port.socket.disable_monitor()
        self._events.close()
        self._port.close(linger_s=LINGER_S)

    def _send(self, envelope: Envelope) -> None:
        # Queued for a daemon that is down, a command would run when nobody expects it any more.
        # A cancel may wait there: behind the command that it is about.
        cancel = isinstance(envelope.payload, Cancel)
        if not cancel and not self._up.is_set():
            raise self.problem(0)
        if not self._port.send_nowait(self._encoded(envelope)) and not cancel:
            raise DaemonSlow(f"the daemon left {QUEUE} messages unread")

    def _encoded(self, envelope: Envelope) -> bytes:
        asked = envelope.payload
        if not isinstance(asked, Command):
            return envelope.encode()
        if (least := min_bytes(asked.args)) > self.max_bytes:
            raise too_large(asked.name, least, self.max_bytes)
        return fitting(envelope.encode(), self.max_bytes, asked.name)

    def _feed(self, message: list[bytes]) -> None:
        try:
            self.caller.feed(decode(message[-1]))
        except BadMessage:
            return  # not of this version: the call's time-out tells

    def _note(self, message: list[bytes]) -> None:
        event: Any = parse_monitor_message(message)["event"]
        if event == zmq.EVENT_CONNECTED:
            self._greeted = True
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._refused = False
            self._up.set()
        elif event != zmq.EVENT_DISCONNECTED or not self._up.is_set():
            self._refused = True
        else:
            self._lose()

    def _lose(self) -> None:
        self._up, self._greeted = anyio.Event(), False
        self.losses += 1
        # What was said before the end counts.
        while (message := self._port.receive_nowait()) is not None:
            self._feed(message)
        self._on_lost()
