"""Following events. A gap is an event, never silence."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable
from typing import Self

import anyio
import zmq
from anyio.lowlevel import checkpoint

from bus.async_socket import BURST, AsyncSocket
from bus.envelope import Envelope, Payload, decode
from bus.errors import BadMessage, BusError
from bus.messages import BEAT_S, Beat, Subscribe, Welcome

SILENCE_S = 3 * BEAT_S


class Gap(Payload, kind="bus.gap"):
    """Made by the subscriber itself: `missed` events of `topic` never came.

    `missed` is None when the broker restarted and nobody can tell.
    """

    topic: str
    missed: int | None


class Malformed(Payload, kind="bus.malformed"):
    """Made by the subscriber itself: an event came that could not be read."""

    reason: str


class Subscriber:
    """Events of the topics with one of the given prefixes, in order, from the welcome on.

    Re-subscribes by itself when the broker falls silent (it restarted, or cut this subscriber
    off); what was missed meanwhile shows as `Gap`. Use as async context manager and iterate.
    """

    def __init__(self, port: AsyncSocket, topics: Iterable[str], *, name: str = "") -> None:
        self._port = port
        self._subscribe = Subscribe(topics=tuple(topics), name=name)
        self._epoch = ""
        self._seqs: dict[str, int] = {}
        self._ready: list[Envelope] = []

    async def __aenter__(self) -> Self:
        await self._ask()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._port.send_nowait(Envelope.of(Subscribe(topics=())).encode())
        self._port.close()

    async def welcome(self, timeout_s: float) -> None:
        """Wait until events are certain to come. Raises BusError when none of it arrives."""
        with anyio.move_on_after(timeout_s):
            while not self._epoch:
                self._take((await self._port.receive())[-1])
            return
        raise BusError(f"no welcome from the event broker within {timeout_s:g} s")

    async def __aiter__(self) -> AsyncIterator[Envelope]:
        for turn in itertools.count():
            if not turn % BURST:
                await checkpoint()
            while self._ready:
                yield self._ready.pop(0)
            message = self._port.receive_nowait() or await self._patiently()
            if message is None:
                await self._ask()
            else:
                self._take(message[-1])

    async def _patiently(self) -> list[bytes] | None:
        with anyio.move_on_after(SILENCE_S):
            return await self._port.receive()
        return None

    async def _ask(self) -> None:
        with anyio.move_on_after(SILENCE_S):
            await self._port.send(Envelope.of(self._subscribe).encode())

    def _take(self, data: bytes) -> None:
        try:
            envelope = decode(data)
        except BadMessage as error:
            self._ready.append(Envelope.of(Malformed(reason=str(error))))
            return
        if isinstance(envelope.payload, Welcome):
            self._greet(envelope.payload)
        elif isinstance(envelope.payload, Beat):
            self._account(envelope.payload)
        else:
            self._note(envelope)

    def _greet(self, welcome: Welcome) -> None:
        if self._epoch and self._epoch != welcome.epoch:
            self._ready.append(Envelope.of(Gap(topic="", missed=None)))
        elif self._epoch:
            for topic, seq in welcome.seqs.items():
                self._check(topic, seq + 1)
        self._epoch, self._seqs = welcome.epoch, dict(welcome.seqs)

    def _account(self, beat: Beat) -> None:
        for topic, seq in beat.missed.items():
            if seq > self._seqs.get(topic, 0):
                self._check(topic, seq + 1)
                self._seqs[topic] = seq

    def _note(self, envelope: Envelope) -> None:
        if envelope.seq > self._seqs.get(envelope.topic, 0):
            self._check(envelope.topic, envelope.seq)
            self._seqs[envelope.topic] = envelope.seq
        self._ready.append(envelope)  # a retained value is not newer than the welcome

    def _check(self, topic: str, seq: int) -> None:
        missed = seq - self._seqs.get(topic, 0) - 1
        if missed > 0:
            self._ready.append(Envelope.of(Gap(topic=topic, missed=missed)))


def local_subscriber(address: str, topics: Iterable[str], *, name: str, queue: int) -> Subscriber:
    """A subscriber over a unix socket."""
    return Subscriber(AsyncSocket(zmq.DEALER, queue=queue).connect(address), topics, name=name)
