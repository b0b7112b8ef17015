"""The asking half of commands: used by clients, and by agents that ask other agents."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from bus.envelope import Envelope
from bus.errors import BAD_ARGUMENT, CommandError
from bus.messages import Accepted, Cancel, Command, Failure, Progress, Result

Send = Callable[[Envelope], None]


class Call:
    """One command under way. Iterate for its progress, then `await result()`.

    Use as async context manager: leaving it before the final answer cancels the command.
    """

    def __init__(self, command: Envelope, send: Send, forget: Callable[[str], None]) -> None:
        self.id = command.id
        self.agent = ""
        self._send = send
        self._forget = forget
        self._final: Result | Failure | None = None
        self._inbox: MemoryObjectSendStream[Envelope]
        self._replies: MemoryObjectReceiveStream[Envelope]
        # Unbounded: a slow consumer must not hold up the replies of other calls.
        self._inbox, self._replies = anyio.create_memory_object_stream(math.inf)
        send(command)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._final is None:
            self.cancel()
        self._forget(self.id)
        self._inbox.close()
        self._replies.close()

    def feed(self, reply: Envelope) -> None:
        """Take in a reply (called by the receiving loop)."""
        self._inbox.send_nowait(reply)

    def cancel(self) -> None:
        """Ask to stop. The final answer still comes: usually the error `cancelled`."""
        self._send(Envelope.of(Cancel(), correlation=self.id))

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while self._final is None:
            payload = (await self._replies.receive()).payload
            if isinstance(payload, Progress):
                yield payload.data
            elif isinstance(payload, Accepted):
                self.agent = payload.agent
            elif isinstance(payload, Result | Failure):
                self._final = payload

    async def result(self) -> dict[str, Any]:
        """Wait for the final answer. Raises CommandError when it is an error."""
        async for _ in self:
            pass
        if isinstance(self._final, Result):
            return self._final.data
        assert self._final is not None  # noqa: S101 - iteration ends with a final answer
        raise CommandError(self._final.code, self._final.message, self._final.detail)


class Caller:
    """Sends commands and sorts the replies to them. The owner of the socket feeds it."""

    def __init__(self, send: Send, *, source: str) -> None:
        self._send = send
        self._source = source
        self._calls: dict[str, Call] = {}

    @property
    def busy(self) -> bool:
        """Whether a call awaits its final answer."""
        return bool(self._calls)

    def call(
        self, name: str, args: dict[str, Any] | None = None, *, deadline_s: float | None = None
    ) -> Call:
        """Start a command."""
        try:
            payload = Command(name=name, args=args or {}, deadline_s=deadline_s)
            command = Envelope.of(payload, source=self._source)
            call = Call(command, self._send, self._forget)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise CommandError(BAD_ARGUMENT, f"{first['loc'][0]}: {first['msg']}") from None
        except PydanticSerializationError as error:
            raise CommandError(BAD_ARGUMENT, f"arguments: not valid text: {error}") from None
        self._calls[call.id] = call
        return call

    async def ask(self, name: str, /, **args: Any) -> dict[str, Any]:
        """Run a command and return its result. Raises CommandError."""
        async with self.call(name, args) as call:
            return await call.result()

    def _forget(self, call_id: str) -> None:
        self._calls.pop(call_id, None)

    def feed(self, reply: Envelope) -> bool:
        """Give a reply to the call it belongs to; False if there is none (any more)."""
        call = self._calls.get(reply.correlation or "")
        if call is not None:
            call.feed(reply)
        return call is not None

    def fail_all(self, error: CommandError) -> None:
        """End every call with `error`: the connection is gone."""
        failure = Failure(code=error.code, message=error.message, detail=error.detail)
        for call in tuple(self._calls.values()):
            call.cancel()  # should the command be read after all, nobody waits for it
            call.feed(Envelope.of(failure, correlation=call.id))
