"""The event broker of the hub: numbers events, keeps last values, and counts every loss.

Publishers push (PUSH/PULL), so a slow broker holds them back and nothing is lost on the way in.
Subscribers dial in (DEALER/ROUTER), so the broker knows each by name: it welcomes it, sends it
the retained values, sees exactly what it could not be sent, and can cut it off. XPUB could do
none of the last three.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import structlog

from bus.async_socket import AsyncSocket, Unreachable
from bus.auth import Listener
from bus.counters import BrokerCounters, CutSubscriber, SubscriberCounters
from bus.envelope import Envelope, Payload, decode, new_id
from bus.errors import BadMessage
from bus.messages import BEAT_S, Beat, Subscribe, Welcome
from bus.publication import read, stamp, write
from bus.topics import SubscriberCut

MAX_TOPICS = 10_000
_TOPIC = re.compile(rb"[a-z0-9_.-]{1,200}")

log = structlog.get_logger(agent="bus")


@dataclass(slots=True, eq=False)
class _Subscriber:
    key: tuple[int, bytes]
    listener: Listener
    route: bytes
    user: str
    name: str
    prefixes: tuple[str, ...]
    delivered: int = 0
    dropped: int = 0
    full_since: float | None = None
    missed: dict[str, int] = field(default_factory=dict)

    def wants(self, topic: str) -> bool:
        return topic.startswith(self.prefixes)

    def counters(self) -> SubscriberCounters:
        return SubscriberCounters(name=self.name, delivered=self.delivered, dropped=self.dropped)


@dataclass(slots=True)
class _Topic:
    seq: int = 0
    last: bytes | None = None
    subscribers: list[_Subscriber] = field(default_factory=list)


class Broker:
    """Fans events out to subscribers; runs inside the hub.

    A subscriber whose queue stays full for `stall_s` seconds is cut off.
    """

    def __init__(self, publish: AsyncSocket, listeners: list[Listener], *, stall_s: float) -> None:
        self.epoch = new_id()
        self._publish = publish
        self._listeners = listeners
        self._stall_s = stall_s
        self._topics: dict[bytes, _Topic] = {}
        self._subscribers: dict[tuple[int, bytes], _Subscriber] = {}
        self._published = self._refused = self._dropped = 0
        self._cut: deque[CutSubscriber] = deque(maxlen=20)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._publish.drain, self._on_publish)
            for index, listener in enumerate(self._listeners):
                tasks.start_soon(listener.drain, self._hearer(index, listener))
            tasks.start_soon(self._beat)

    def publish(self, topic: str, payload: Payload, *, retain: bool = False) -> None:
        """Publish from inside the hub."""
        envelope = Envelope.of(payload, source="hub")
        self._on_publish([write(topic, envelope, retain=retain)])

    def last(self, topic: str) -> Payload | None:
        """The payload of a topic's retained event."""
        known = self._topics.get(topic.encode())
        if known is None or known.last is None:
            return None
        return decode(known.last).payload

    def stats(self) -> BrokerCounters:
        """Counters since the start, by subscriber where it matters."""
        return BrokerCounters(
            published=self._published,
            refused=self._refused,
            dropped=self._dropped,
            topics=len(self._topics),
            subscribers=[each.counters() for each in self._subscribers.values()],
            cut_off=list(self._cut),
        )

    def _on_publish(self, parts: list[bytes]) -> None:
        publication = read(parts)
        if publication is None:
            self._refused += 1
            return
        name, retain, event = publication
        topic = self._topics.get(name) or self._new_topic(name)
        if topic is None:
            self._refused += 1
            return
        self._published += 1
        topic.seq += 1
        stamped = stamp(name, topic.seq, event)
        if retain:
            topic.last = stamped
        for subscriber in tuple(topic.subscribers):
            if not self._deliver(subscriber, stamped):
                subscriber.missed[name.decode()] = topic.seq

    def _new_topic(self, name: bytes) -> _Topic | None:
        if len(self._topics) >= MAX_TOPICS or not _TOPIC.fullmatch(name):
            return None
        wanted = name.decode()
        members = [each for each in self._subscribers.values() if each.wants(wanted)]
        topic = self._topics[name] = _Topic(subscribers=members)
        return topic

    def _deliver(self, subscriber: _Subscriber, data: bytes) -> bool:
        try:
            sent = subscriber.listener.port.send_nowait(subscriber.route, data)
        except Unreachable:
            self._forget(subscriber)
            return False
        if sent:
            subscriber.delivered += 1
            subscriber.full_since = None
        else:
            self._drop(subscriber)
        return sent

    def _drop(self, subscriber: _Subscriber) -> None:
        subscriber.dropped += 1
        self._dropped += 1
        now = time.monotonic()
        subscriber.full_since = subscriber.full_since or now
        if now - subscriber.full_since > self._stall_s:
            self._cut_off(subscriber, f"read nothing for {self._stall_s:g} s")

    def _hearer(self, index: int, listener: Listener) -> Callable[[bytes, bytes, str], None]:
        def hear(route: bytes, data: bytes, user: str) -> None:
            try:
                payload = decode(data).payload
            except BadMessage:
                self._refused += 1
                return
            if isinstance(payload, Subscribe):
                key = (index, route)
                self._subscribe(
                    _Subscriber(key, listener, route, user, payload.name, payload.topics)
                )
            else:
                self._refused += 1

        return hear

    def _subscribe(self, subscriber: _Subscriber) -> None:
        if subscriber.key in self._subscribers:
            self._forget(self._subscribers[subscriber.key])
        if not subscriber.prefixes:
            return
        self._subscribers[subscriber.key] = subscriber
        topics = {name: topic for name, topic in self._topics.items()
                  if subscriber.wants(name.decode())}  # fmt: skip
        seqs = {name.decode(): topic.seq for name, topic in topics.items()}
        for topic in topics.values():
            topic.subscribers.append(subscriber)
        self._deliver(subscriber, _message(Welcome(epoch=self.epoch, seqs=seqs)))
        for topic in topics.values():
            if topic.last is not None:
                self._deliver(subscriber, topic.last)

    def _forget(self, subscriber: _Subscriber) -> None:
        self._subscribers.pop(subscriber.key, None)
        for topic in self._topics.values():
            if subscriber in topic.subscribers:
                topic.subscribers.remove(subscriber)

    def _cut_off(self, subscriber: _Subscriber, reason: str) -> None:
        self._forget(subscriber)
        counted = subscriber.counters().model_dump()
        self._cut.append(CutSubscriber(**counted, reason=reason))
        log.warning("bus.subscriber_cut", **counted, reason=reason)
        cut = SubscriberCut(name=subscriber.name, dropped=subscriber.dropped, reason=reason)
        # Not here and now: telling one may cut the next, and a thousand at once are too deep.
        asyncio.get_running_loop().call_soon(self.publish, SubscriberCut.kind, cut)

    async def _beat(self) -> None:
        while True:
            await anyio.sleep(BEAT_S)
            for subscriber in tuple(self._subscribers.values()):
                if not subscriber.listener.allows(subscriber.user):
                    self._cut_off(subscriber, "its key was revoked")
                elif self._deliver(
                    subscriber, _message(Beat(epoch=self.epoch, missed=subscriber.missed))
                ):
                    subscriber.missed = {}


def _message(payload: Payload) -> bytes:
    return Envelope.of(payload, source="bus").encode()
