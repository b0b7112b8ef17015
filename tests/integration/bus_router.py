"""A command router in this process, with clients and agents that do exactly what a test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import zmq
from pydantic import Field

from bus.async_socket import AsyncSocket
from bus.auth import open_listener
from bus.commands import CommandSpec, CommandTable, Done, Request
from bus.envelope import Envelope, Payload, decode
from bus.messages import Cancel, Command, Failure, Heartbeat, Progress, Register, Result
from bus.pending_commands import PendingCommands
from bus.router import CommandRouter
from sovl_daemon.testing import PATIENCE_S


class Say(Request[Done], command="say"):
    text: str = Field(max_length=100_000)
    times: int = Field(default=1, ge=1, le=9)


class Sleep(Request[Done], command="sleep"):
    pass


class Walk(Request[Done], command="walk"):
    pass


class Remember(Request[Done], command="remember"):
    pass


TABLE = CommandTable(
    [
        CommandSpec("say", "echo", "Say it.", Say, "say"),
        CommandSpec("sleep", "legs", "Sleep.", Sleep, "sleep", long=True),
        CommandSpec("walk", "legs", "Walk.", Walk, "walk"),
        CommandSpec("remember", "echo", "For agents.", Remember, "remember", internal=True),
    ]
)


class Peer:
    """One end of a connection: says what it is told to, and hands out what it hears."""

    def __init__(self, address: str, *, queue: int = 10_000) -> None:
        self.port = AsyncSocket(zmq.DEALER, queue=queue).connect(address)

    async def say(self, payload: Payload, *, about: str | None = None, id_: str = "") -> str:
        envelope = Envelope.of(payload, correlation=about, message_id=id_)
        await self.port.send(envelope.encode())
        return envelope.id

    async def hear(self) -> Envelope:
        with anyio.fail_after(PATIENCE_S):
            return decode((await self.port.receive())[-1])

    async def hears_nothing(self, seconds: float = 0.2) -> bool:
        with anyio.move_on_after(seconds):
            await self.port.receive()
            return False
        return True


class Client(Peer):
    """Asks."""

    async def ask(
        self, name: str = "say", *, deadline_s: float | None = None, id_: str = "", **args: Any
    ) -> str:
        args = args or ({"text": "x"} if name == "say" else {})
        return await self.say(Command(name=name, args=args, deadline_s=deadline_s), id_=id_)

    async def cancel(self, command: str) -> None:
        await self.say(Cancel(), about=command)

    async def answers(self, command: str) -> list[Payload]:
        """Everything said about a command up to its final answer; nothing else may be said."""
        said: list[Payload] = []
        while not said or not isinstance(said[-1], Result | Failure):
            envelope = await self.hear()
            assert envelope.correlation == command
            said.append(envelope.payload)
        return said

    async def final(self, command: str) -> Payload:
        return (await self.answers(command))[-1]

    async def error(self, command: str) -> Failure:
        final = await self.final(command)
        assert isinstance(final, Failure), final
        return final


class Agent(Peer):
    """Answers."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(address)
        self.name = name

    async def register(self) -> None:
        await self.say(Register(agent=self.name, process="host", pid=1))

    async def beat(self, state: str = "ready", **fields: Any) -> None:
        await self.say(Heartbeat(agent=self.name, state=state, **fields))

    async def taken(self) -> str:
        """The id of the next command, which must be one."""
        envelope = await self.hear()
        assert isinstance(envelope.payload, Command), envelope
        return envelope.id

    async def told_to_cancel(self) -> str:
        envelope = await self.hear()
        assert isinstance(envelope.payload, Cancel), envelope
        assert envelope.correlation is not None
        return envelope.correlation

    async def progress(self, command: str, **data: Any) -> None:
        await self.say(Progress(data=data), about=command)

    async def result(self, command: str, **data: Any) -> None:
        await self.say(Result(data=data), about=command)

    async def failure(self, command: str, code: str, message: str = "") -> None:
        await self.say(Failure(code=code, message=message), about=command)


@dataclass
class Switch:
    """A router that runs."""

    router: CommandRouter
    pending: PendingCommands
    commands: str
    agents: str
    peers: list[Peer] = field(default_factory=list)

    def client(self, **options: Any) -> Client:
        client = Client(self.commands, **options)
        self.peers.append(client)
        return client

    async def agent(self, name: str = "echo", *, register: bool = True) -> Agent:
        agent = Agent(self.agents, name)
        self.peers.append(agent)
        if register:
            await agent.register()
            await self.until(lambda: self.router.session(name).address is not None)
        return agent

    async def until(self, condition: Any) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.01)

    @property
    def counters(self) -> dict[str, int]:
        return self.router.counters


@asynccontextmanager
async def switching(
    runtime: Path,
    *,
    per_agent: int = 64,
    per_client: int = 64,
    deadline_s: float = 60,
    queue: int = 1000,
) -> AsyncIterator[Switch]:
    commands, agents = (f"ipc://{runtime}/{name}" for name in ("commands", "agents"))
    listeners = [open_listener(each, queue=queue, max_bytes=1 << 20) for each in (commands, agents)]
    pending = PendingCommands(per_agent=per_agent, per_client=per_client)
    router = CommandRouter(
        clients=listeners[:1],
        agents=listeners[1],
        table=TABLE,
        pending=pending,
        default_deadline_s=deadline_s,
    )
    for name in ("echo", "legs"):
        router.session(name)
    switch = Switch(router, pending, commands, agents)
    running = asyncio.create_task(router.run())
    try:
        yield switch
        assert set(pending.by_agent()) <= {"echo", "legs"}
    finally:
        running.cancel()
        await asyncio.wait([running])
        for port in (
            *(peer.port for peer in switch.peers),
            *(listener.port for listener in listeners),
        ):
            port.close()
    assert running.cancelled(), running.exception()
