"""The control socket: one question, one answer, at once. Nothing slow is done here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import structlog

from bus.auth import Door
from bus.commands import CommandTable
from bus.envelope import Envelope, decode
from bus.errors import BAD_MESSAGE, INTERNAL, BadMessage, CommandError
from bus.messages import Command, Failure, Result
from bus.port import Unreachable

Handler = Callable[[Any], dict[str, Any]]

log = structlog.get_logger(agent="hub")


class Responder:
    """Answers control commands with plain functions: `handlers` by method name of the table."""

    def __init__(self, doors: list[Door], table: CommandTable, owner: object) -> None:
        self.counters: Counter[str] = Counter()
        self._doors = doors
        self._table = table
        self._owner = owner

    async def run(self) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            for door in self._doors:
                tasks.start_soon(door.drain, self._listener(door))

    def _listener(self, door: Door) -> Callable[[bytes, bytes, str], None]:
        def hear(route: bytes, data: bytes, user: str) -> None:
            reply = self._respond(data).encode()
            try:
                if not door.port.send_nowait(route, reply):
                    self.counters["undeliverable"] += 1
            except Unreachable:
                self.counters["undeliverable"] += 1

        return hear

    def _respond(self, data: bytes) -> Envelope:
        asked = None
        try:
            envelope = decode(data)
            asked = envelope.id
            if not isinstance(envelope.payload, Command):
                raise BadMessage(f"kind: {envelope.kind!r} is not spoken on this socket")
            self.counters["answered"] += 1
            result = Result(data=self._call(envelope.payload))
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

    def _call(self, payload: Command) -> dict[str, Any]:
        spec = self._table.find(payload.name, internal=False)
        args = spec.arguments.model_validate(spec.check(payload.args))
        handler: Handler = getattr(self._owner, spec.method)
        return handler(args)
