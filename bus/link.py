"""An agent's line to the hub: it registers, beats, takes commands, and asks other agents."""

from __future__ import annotations

import os
from typing import Any

import zmq

from bus.caller import Caller
from bus.envelope import Envelope, Payload, decode
from bus.errors import BusError
from bus.messages import Heartbeat, Register
from bus.port import Port

QUEUE = 100_000  # messages; what a hub that is stopped for a moment may leave unread


class AgentLink:
    """One connection of one agent. `caller` asks other agents."""

    def __init__(self, address: str, agent: str, process: str, *, max_bytes: int = 1 << 20) -> None:
        self._agent = agent
        self._process = process
        self._port = Port(zmq.DEALER, queue=QUEUE, max_bytes=max_bytes).connect(address)
        self.caller = Caller(self._send, source=agent)

    def register(self) -> None:
        """Tell the hub that commands may come."""
        self.send(Register(agent=self._agent, process=self._process, pid=os.getpid()))

    def beat(self, state: str, detail: str, stats: dict[str, Any]) -> None:
        """Tell the hub that this agent is alive."""
        self.send(Heartbeat(agent=self._agent, state=state, detail=detail, stats=stats))

    def send(self, payload: Payload, correlation: str | None = None) -> None:
        """Send to the hub. Raises BusError when it has not read for very long."""
        self._send(Envelope.of(payload, source=self._agent, correlation=correlation))

    def _send(self, envelope: Envelope) -> None:
        if not self._port.send_nowait(envelope.encode()):
            raise BusError(f"{self._agent}: the hub left {QUEUE} messages unread")

    async def receive(self) -> Envelope:
        """The next message that is not a reply to one of our own calls."""
        while True:
            envelope = decode((await self._port.receive())[-1])
            if not self.caller.feed(envelope):
                return envelope

    def close(self) -> None:
        """Hang up."""
        self._port.close()
