"""The asyncio client: calls, events, and telling apart why a daemon does not answer."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import anyio
import zmq
from zmq.utils.monitor import recv_monitor_message

from bus.caller import Call, Caller
from bus.envelope import Envelope, decode
from bus.errors import AGENT_LOST, BadMessage, CommandError
from bus.port import Port
from bus.subscriber import Subscriber
from sovl_daemon.client.errors import ClientError, DaemonDown, DaemonSlow, WrongKey
from sovl_daemon.client.target import Target

PATIENCE_S = 1.0
WATCH_S = 1.0
LOST_AFTER_S = 3.0
LINGER_S = 0.5  # so that a last cancel still gets out
QUEUE = 100_000


class AsyncClient:
    """A connection to a daemon. Use as async context manager; entering it makes sure it answers.

    Raises DaemonDown, WrongKey, PermissionRefused or DaemonSlow within about a second.
    """

    def __init__(self, target: Target | None = None, *, source: str = "client") -> None:
        self.target = target or Target.find()
        self._source = source
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.target.check()
        endpoints = self.target.endpoints
        self._control = self._port(endpoints.control)
        self._commands = self._port(endpoints.commands)
        self._monitor = self._control.socket.get_monitor_socket()
        self._stack.callback(self._control.socket.disable_monitor)
        self._controls = Caller(self._sender(self._control), source=self._source)
        self._caller = Caller(self._sender(self._commands), source=self._source)
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(self._receive, self._control, self._controls)
        tasks.start_soon(self._receive, self._commands, self._caller)
        try:
            await self.control("ping")
        except BaseException:
            await self._stack.aclose()
            raise
        tasks.start_soon(self._watch)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def call(
        self, name: str, args: dict[str, Any] | None = None, *, deadline_s: float | None = None
    ) -> Call:
        """Start a command: `async with client.call(...) as call: async for step in call: ...`."""
        return self._caller.call(name, args, deadline_s=deadline_s)

    async def ask(self, name: str, /, **args: Any) -> dict[str, Any]:
        """Run a command and return its result. Raises CommandError."""
        return await self._caller.ask(name, **args)

    async def control(
        self, name: str, /, *, timeout_s: float = PATIENCE_S, **args: Any
    ) -> dict[str, Any]:
        """Ask the hub itself (ping, status, stop …). Raises CommandError or ClientError."""
        with anyio.move_on_after(timeout_s):
            return await self._controls.ask(name, **args)
        raise self._diagnosis(timeout_s)

    def events(self, *topics: str) -> Subscriber:
        """Follow the events whose topic starts with one of `topics` (all without any)."""
        port = Port(zmq.DEALER, **self.target.options).connect(self.target.endpoints.events)
        return Subscriber(port, topics or ("",), name=self._source)

    def _port(self, address: str) -> Port:
        port = Port(zmq.DEALER, queue=QUEUE, max_bytes=-1, **self.target.options)
        self._stack.callback(port.close, linger_s=LINGER_S)
        return port.connect(address)

    @staticmethod
    def _sender(port: Port) -> Any:
        def send(envelope: Envelope) -> None:
            if not port.send_nowait(envelope.encode()):
                raise DaemonSlow(f"the daemon left {QUEUE} messages unread")

        return send

    @staticmethod
    async def _receive(port: Port, caller: Caller) -> None:
        while True:
            try:
                caller.feed(decode((await port.receive())[-1]))
            except BadMessage:
                continue  # not of this version: the call's time-out tells

    async def _watch(self) -> None:
        """End the calls under way when the daemon goes away."""
        while True:
            await anyio.sleep(WATCH_S)
            if not self._caller.busy:
                continue
            try:
                await self.control("ping", timeout_s=LOST_AFTER_S - WATCH_S)
            except ClientError as error:
                self._caller.fail_all(CommandError(AGENT_LOST, f"connection lost: {error}"))

    def _diagnosis(self, waited_s: float) -> ClientError:
        """What the socket's own events say about the silence."""
        seen = set()
        while self._monitor.poll(0):
            seen.add(recv_monitor_message(self._monitor)["event"])
        title = self.target.title
        if zmq.EVENT_HANDSHAKE_SUCCEEDED in seen and zmq.EVENT_DISCONNECTED not in seen:
            return DaemonSlow(f"the daemon at {title} gave no answer within {waited_s:g} s")
        if zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen and zmq.EVENT_CONNECTED in seen:
            return WrongKey(f"{title} refused the keys; see: sovl keys allow")
        return DaemonDown(f"no SOVL daemon answers at {title}; start it with: sovl run")
