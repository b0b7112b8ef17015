"""An agent's line to the hub: it registers, beats, takes commands, and asks other agents."""

from __future__ import annotations

import os

import zmq

from bus.async_socket import LINGER_S, AsyncSocket
from bus.caller import Caller
from bus.envelope import Envelope, Payload, decode
from bus.errors import BusError, CommandError
from bus.messages import Failure, Heartbeat, Register, Result
from bus.size import fitting

QUEUE = 100_000  # messages; what a hub that is stopped for a moment may leave unread
_DETAIL = 1000  # characters
_WHAT = {"result": "the answer", "error": "the answer", "progress": "a step on the way"}


class AgentLink:
    """One connection of one agent. `caller` asks other agents."""

    def __init__(self, address: str, agent: str, process: str, *, max_bytes: int = 1 << 20) -> None:
        self._agent = agent
        self._process = process
        self._max_bytes = max_bytes
        self._port = AsyncSocket(zmq.DEALER, queue=QUEUE).connect(address)
        self.caller = Caller(self._send, source=agent)

    def register(self) -> None:
        """Tell the hub that commands may come."""
        self.send(Register(agent=self._agent, process=self._process, pid=os.getpid()))

    def beat(self, beat: Heartbeat) -> None:
        """Tell the hub that this agent is alive, without what is too much to send."""
        texts = {"detail": beat.detail[:_DETAIL], "refused": beat.refused[:_DETAIL]}
        beat = beat.model_copy(update=texts)
        try:
            self.send(beat)
        except CommandError as error:
            self.send(beat.model_copy(update={"stats": {error.code: error.detail}}))

    def answer(self, answer: Result | Failure, command: str, correlation: str) -> None:
        """Give a command its final answer; one that is too large is an error of the command."""
        try:
            self.send(answer, correlation)
        except CommandError as error:
            message = f"{command}: {error.message}"
            self.send(Failure(code=error.code, message=message, detail=error.detail), correlation)

    def send(self, payload: Payload, correlation: str | None = None) -> None:
        """Send to the hub. Raises BusError when it has not read for very long.

        Raises CommandError where it is larger than a message may be.
        """
        self._send(Envelope.of(payload, source=self._agent, correlation=correlation))

    def _send(self, envelope: Envelope) -> None:
        what = _WHAT.get(envelope.kind, envelope.kind)
        data = fitting(envelope.encode(), self._max_bytes, what)
        if not self._port.send_nowait(data):
            raise BusError(f"{self._agent}: the hub left {QUEUE} messages unread")

    async def receive(self) -> Envelope:
        """The next message that is not a reply to one of our own calls."""
        while True:
            envelope = decode((await self._port.receive())[-1])
            if not self.caller.feed(envelope):
                return envelope

    def close(self) -> None:
        """Hang up, after the last words."""
        self._port.close(linger_s=LINGER_S)
