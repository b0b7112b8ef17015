"""Publishing events from an agent to the broker."""

from __future__ import annotations

import zmq

from bus.envelope import Envelope, Payload
from bus.port import Port
from bus.publication import write

LINGER_S = 0.5  # the last words of an agent that stops should still get out


class Publisher:
    """Sends the events of one source. A full queue holds the publisher back; nothing is lost."""

    def __init__(self, address: str, source: str, *, max_bytes: int = 1 << 20) -> None:
        self._source = source
        self._port = Port(zmq.PUSH, max_bytes=max_bytes).connect(address)

    async def publish(
        self, topic: str, payload: Payload, *, correlation: str | None = None, retain: bool = False
    ) -> None:
        """Publish `payload`; with `retain`, late subscribers get it as the topic's last value."""
        envelope = Envelope.of(payload, source=self._source, correlation=correlation)
        await self._port.send(write(topic, envelope, retain=retain))

    def close(self) -> None:
        """Close once what is queued is out, or after half a second."""
        self._port.close(linger_s=LINGER_S)
