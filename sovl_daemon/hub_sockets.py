"""The sockets of the hub and what stands behind each."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

import anyio
import zmq

from bus.async_socket import AsyncSocket
from bus.auth import SERVER, Authenticator, KeyProblem, KeyRing, Listener, open_listener
from bus.broker import Broker
from bus.commands import CommandTable
from bus.endpoints import Endpoints
from bus.pending_commands import PendingCommands
from bus.responder import Responder
from bus.router import CommandRouter
from config import Paths
from config.service import BusSettings

CLIENT_QUEUE = 2000  # messages that a client may leave unread before it is cut off
AGENT_QUEUE = 10_000  # those that agents may
UNHEARD = 64  # messages of one client that wait to be read; ZeroMQ holds the others back


class HubSockets:
    """Opens all sockets (also tcp, where `bus.listen` asks for it) and serves them.

    Raises KeyProblem when tcp is wanted without keys.
    """

    def __init__(
        self, settings: BusSettings, paths: Paths, commands: CommandTable, controls: CommandTable
    ) -> None:
        self._settings = settings
        self._keys = KeyRing(paths.keys_dir)
        self._local = Endpoints.local(paths.runtime_dir)
        self._commands = commands
        self._controls = controls
        self._stack = ExitStack()
        self._ports: list[AsyncSocket] = []

    def open(self, desk: object, linger_s: float) -> Self:
        """Bind everything. On closing, unsent answers get `linger_s` seconds to leave."""
        self._linger_s = linger_s
        addresses = [self._local, *self._remote()]
        publish = AsyncSocket(
            zmq.PULL, queue=AGENT_QUEUE, max_bytes=self._settings.max_message_bytes
        )
        publish.bind(self._local.publish, mode=0o600)
        self._stack.callback(publish.close)
        self._ports.append(publish)
        self.broker = Broker(
            publish,
            [self._listener(each.events, self._settings.subscriber_queue) for each in addresses],
            stall_s=self._settings.subscriber_stall_s,
        )
        self.router = CommandRouter(
            clients=[self._listener(each.commands) for each in addresses],
            agents=self._listener(self._local.agents, AGENT_QUEUE, mode=0o600, unheard=AGENT_QUEUE),
            table=self._commands,
            pending=PendingCommands(
                per_agent=self._settings.max_pending_per_agent,
                per_client=self._settings.max_pending_per_client,
            ),
            default_deadline_s=self._settings.command_deadline_s,
        )
        listeners = [self._listener(each.control) for each in addresses]
        self.responder = Responder(listeners, self._controls, desk)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def reachable(self) -> bool:
        """Whether every socket is where clients look for it."""
        return all(port.reachable for port in self._ports)

    def bind_anew(self) -> None:
        """Bind what others removed; who is connected stays so. Raises BindProblem."""
        for port in self._ports:
            port.bind_anew()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            for service in (self.broker, self.router, self.responder):
                tasks.start_soon(service.run)

    def _remote(self) -> list[Endpoints]:
        if self._settings.listen is None:
            return []
        try:
            self._keys.pair(SERVER)
        except KeyProblem as error:
            raise KeyProblem(f"bus.listen: tcp is served with keys only. {error}") from None
        self._stack.enter_context(Authenticator(self._keys))
        return [Endpoints.tcp(self._settings.listen)]

    def _listener(
        self,
        address: str,
        queue: int = CLIENT_QUEUE,
        *,
        mode: int = 0o660,
        unheard: int = UNHEARD,
    ) -> Listener:
        listener = open_listener(
            address,
            queue=queue,
            unheard=unheard,
            max_bytes=self._settings.max_message_bytes,
            mode=mode,
            keys=self._keys,
        )
        self._stack.callback(listener.port.close, linger_s=self._linger_s)
        self._ports.append(listener.port)
        return listener
