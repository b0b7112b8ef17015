"""The asyncio client: calls, events, and telling apart why a daemon does not answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

import anyio
import zmq

from bus.async_socket import AsyncSocket
from bus.caller import Call
from bus.errors import AGENT_LOST, CommandError
from bus.subscriber import Subscriber
from sovl_daemon.client.channel import Channel
from sovl_daemon.client.errors import ClientError
from sovl_daemon.client.target import Target
from sovl_daemon.own_time import move_on_after

if TYPE_CHECKING:
    from bus.commands import ReplyT, Request

PATIENCE_S = 1.0
WATCH_S = 1.0
LOST_AFTER_S = 3.0


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
        self._own_time = self.target.own_time()
        endpoints = self.target.endpoints
        self._control = self._channel(endpoints.control, lambda: None)
        self._commands = self._channel(endpoints.commands, self._fail_calls)
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(self._control.run)
        tasks.start_soon(self._commands.run)
        try:
            await self._connect()
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
        return self._commands.caller.call(name, args, deadline_s=deadline_s)

    @overload
    async def ask(self, request: Request[ReplyT], /) -> ReplyT: ...
    @overload
    async def ask(self, request: str, /, **args: Any) -> dict[str, Any]: ...
    async def ask(self, request: Request[Any] | str, /, **args: Any) -> Any:
        """Run a command, by a request or by name, and return its reply, by name as it came.

        Raises CommandError.
        """
        if not isinstance(request, str):
            return request.read(await self.ask(request.command_name, **request.wire()))
        async with self.call(request, args) as call:
            return await call.result()

    @overload
    async def control(
        self, request: Request[ReplyT], /, *, timeout_s: float = PATIENCE_S
    ) -> ReplyT: ...
    @overload
    async def control(
        self, request: str, /, *, timeout_s: float = PATIENCE_S, **args: Any
    ) -> dict[str, Any]: ...
    async def control(
        self, request: Request[Any] | str, /, *, timeout_s: float = PATIENCE_S, **args: Any
    ) -> Any:
        """Ask the hub itself (ping, status, stop …) as `ask` does. Raises ClientError, too.

        What takes longer than `timeout_s`, as a change of settings may, is waited for as long as
        the hub answers pings meanwhile.
        """
        if not isinstance(request, str):
            name, args = request.command_name, request.wire()
            return request.read(await self.control(name, timeout_s=timeout_s, **args))
        hub, half_s = self._control, timeout_s / 2
        with move_on_after(timeout_s, self._own_time) as connecting:
            await hub.up()
        if connecting.cancelled_caught:
            raise hub.problem(timeout_s)
        losses = hub.losses
        async with hub.caller.call(request, args) as call:
            while True:
                with move_on_after(half_s, self._own_time):
                    return await call.result()
                with move_on_after(half_s, self._own_time) as silence:
                    await hub.caller.ask("ping")
                # A hub that was started anew answers pings, and knows of nothing.
                if silence.cancelled_caught or hub.losses != losses:
                    raise hub.problem(timeout_s)

    def events(self, *topics: str) -> Subscriber:
        """Follow the events whose topic starts with one of `topics` (all without any)."""
        port = AsyncSocket(zmq.DEALER, **self.target.options).connect(self.target.endpoints.events)
        return Subscriber(port, topics or ("",), name=self._source)

    def _channel(self, address: str, on_lost: Callable[[], None]) -> Channel:
        channel = Channel(self.target, address, source=self._source, on_lost=on_lost)
        self._stack.callback(channel.close)
        return channel

    @property
    def max_message_bytes(self) -> int:
        """How much the daemon reads of one message."""
        return self._commands.max_bytes

    async def _connect(self) -> None:
        pong = await self.control("ping")
        for channel in (self._control, self._commands):  # an older daemon does not say
            channel.max_bytes = pong.get("max_message_bytes", channel.max_bytes)
        with move_on_after(PATIENCE_S, self._own_time):
            await self._commands.up()
            return
        raise self._commands.problem(PATIENCE_S)

    async def _watch(self) -> None:
        """End the calls under way when the daemon falls silent."""
        while True:
            await anyio.sleep(WATCH_S)
            if not self._commands.caller.busy:
                continue
            try:
                await self.control("ping", timeout_s=LOST_AFTER_S - WATCH_S)
            except ClientError as error:
                self._fail_calls(error)

    def _fail_calls(self, why: ClientError | None = None) -> None:
        why = why or self._commands.problem(0)
        self._commands.caller.fail_all(CommandError(AGENT_LOST, f"connection lost: {why}"))
