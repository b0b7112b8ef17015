"""Publishing events from an agent to the broker."""

from __future__ import annotations

import zmq

from bus.async_socket import LINGER_S, AsyncSocket
from bus.envelope import Envelope, Payload
from bus.publication import write
from bus.size import fitting


class Publisher:
    """Sends the events of one source. A full queue holds the publisher back; nothing is lost."""

    def __init__(self, address: str, source: str, *, max_bytes: int = 1 << 20) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._port = AsyncSocket(zmq.PUSH).connect(address)

    async def publish(
        self, topic: str, payload: Payload, *, correlation: str | None = None, retain: bool = False
    ) -> None:
        """Publish `payload`; with `retain`, late subscribers get it as the topic's last value.

        Raises CommandError where it is larger than a message may be.
        """
        envelope = Envelope.of(payload, source=self._source, correlation=correlation)
        event = write(topic, envelope, retain=retain)
        await self._port.send(fitting(event, self._max_bytes, f"an event of {topic}"))

    def close(self) -> None:
        """Close once what is queued is out, or after half a second."""
        self._port.close(linger_s=LINGER_S)
