"""The control socket: one question, one answer. None waits for another one's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import structlog

from bus.async_socket import Unreachable
from bus.auth import Listener
from bus.commands import CommandTable, Reply
from bus.envelope import Envelope, decode
from bus.errors import BAD_MESSAGE, INTERNAL, BadMessage, CommandError
from bus.messages import Command, Failure, Result

log = structlog.get_logger(agent="hub")


class Responder:
    """Answers control commands by the methods of `owner` that the table names."""

    def __init__(self, listeners: list[Listener], table: CommandTable, owner: object) -> None:
        self.counters: Counter[str] = Counter()
        self._listeners = listeners
        self._table = table
        self._owner = owner

    async def run(self) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            for listener in self._listeners:

                def hear(
                    route: bytes, data: bytes, user: str, listener: Listener = listener
                ) -> None:
                    tasks.start_soon(self._answer, listener, route, data)

                tasks.start_soon(listener.drain, hear)

    async def _answer(self, listener: Listener, route: bytes, data: bytes) -> None:
        reply = (await self._respond(data)).encode()
        try:
            if not listener.port.send_nowait(route, reply):
                self.counters["undeliverable"] += 1
        except Unreachable:
            self.counters["undeliverable"] += 1

    async def _respond(self, data: bytes) -> Envelope:
        asked = None
        try:
            envelope = decode(data)
            asked = envelope.id
            if not isinstance(envelope.payload, Command):
                raise BadMessage(f"kind: {envelope.kind!r} is not spoken on this socket")
            self.counters["answered"] += 1
            result = Result(data=await self._call(envelope.payload))
            return Envelope.of(result, source="hub", correlation=asked)
        except BadMessage as error:
            self.counters["bad_messages"] += 1
            asked = asked or error.asked
            failure = Failure(code=BAD_MESSAGE, message=str(error))
        except CommandError as error:
            failure = Failure(code=error.code, message=error.message, detail=error.detail)
        except Exception as error:
            # The socket that tells what is wrong must not fall silent over a fault in one answer.
            log.exception("control.failed")
            failure = Failure(code=INTERNAL, message=f"{type(error).__name__}: {error}"[:500])
        return Envelope.of(failure, source="hub", correlation=asked)

    async def _call(self, payload: Command) -> dict[str, Any]:
        spec = self._table.find(payload.name, internal=False)
        reply: Reply = await getattr(self._owner, spec.method)(spec.parse(payload.args))
        return reply.wire()
