"""Routes commands from clients to agents and answers back. Runs inside the hub.

accepted → progress* → result | error: whatever happens to agent, client or clock, each accepted
command gets exactly one final answer (which `PendingCommands` sees to).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import structlog

from bus.async_socket import Unreachable
from bus.auth import Listener
from bus.commands import CommandTable
from bus.envelope import Envelope, Payload, decode
from bus.errors import (
    AGENT_FAILED,
    AGENT_LOST,
    BAD_MESSAGE,
    BUSY,
    CANCELLED,
    DEADLINE,
    STOPPING,
    BadMessage,
    CommandError,
)
from bus.messages import (
    Accepted,
    Cancel,
    Command,
    Failure,
    Heartbeat,
    Pause,
    Progress,
    Register,
    Result,
)
from bus.pending_commands import PendingCommand, PendingCommands

TICK_S = 0.1
CANCEL_GRACE_S = 5.0  # an agent that was told to cancel answers by then, or the hub does
MAX_UNSENT = 10_000  # final answers kept for clients that do not read...
MAX_UNSENT_BYTES = 1 << 26  # ...and how much they may take together

log = structlog.get_logger(agent="router")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client or an agent is: a listener and the route behind it."""

    listener: Listener
    route: bytes


@dataclass(slots=True)
class AgentSession:
    """An agent as the router sees it.

    `seen` is monotonic seconds of its last sign of life. `heard` is the same by `clock`, the time
    that its process had for itself, and `moved` when it last told something new. `revision` is that
    of the settings it follows, and `refused` what it cannot follow of them.
    """

    name: str
    address: Address | None = None
    process: str = ""
    pid: int = 0
    seen: float = 0.0
    clock: Callable[[], float] = time.monotonic
    heard: float = 0.0
    moved: float = 0.0
    state: str = "starting"
    detail: str = ""
    paused: bool = False
    failed: str = ""
    saving: bool = False
    revision: int = 0
    refused: str = ""
    stats: dict[str, Any] = field(default_factory=dict)

    def lives(self) -> None:
        """Take note of a sign of life."""
        self.seen, self.heard = time.monotonic(), self.clock()


# By the payload that each takes.
Handlers = dict[type[Payload], Callable[[Address, Envelope, Any], None]]


class CommandRouter:
    """Between the listeners of clients and the listener of agents.

    `clients` may send commands and cancels; `agents` may do the same (internal commands too) and
    register, beat and answer.
    """

    def __init__(
        self,
        *,
        clients: list[Listener],
        agents: Listener,
        table: CommandTable,
        pending: PendingCommands,
        default_deadline_s: float,
    ) -> None:
        self.sessions: dict[str, AgentSession] = {}
        self.table = table
        self.counters: Counter[str] = Counter()
        self._clients = clients
        self._agents = agents
        self._pending = pending
        self._default_deadline_s = default_deadline_s
        self._stopping = False
        self._unsent: list[tuple[Address, Envelope]] = []
        self._unsent_bytes = 0
        self.on_change: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            for listener in self._clients:
                tasks.start_soon(listener.drain, self._hearer(listener, self._client_handlers()))
            handlers = {**self._client_handlers(), **self._agent_handlers()}
            tasks.start_soon(self._agents.drain, self._hearer(self._agents, handlers))
            tasks.start_soon(self._tick)

    def session(self, name: str) -> AgentSession:
        """The session of an agent, made when it is first spoken of."""
        return self.sessions.setdefault(name, AgentSession(name))

    def in_flight(self) -> int:
        """How many commands await their final answer."""
        return len(self._pending)

    def agent_lost(self, name: str, why: str) -> None:
        """Its process or task is gone: what it had fails now, what waits for it waits on."""
        session = self.session(name)
        session.address, session.state, session.detail, session.saving = None, "lost", why, False
        for entry in self._pending.of_agent(name, running=True):
            self._fail(entry, CommandError(AGENT_LOST, f"{name} was lost: {why}; ask again"))
        self.on_change()

    def agent_failed(self, name: str, why: str) -> None:
        """The supervisor gave up on it: what waits for it fails, and so does what comes."""
        self.agent_lost(name, why)
        session = self.session(name)
        session.state, session.failed = "failed", why
        for entry in self._pending.of_agent(name, running=False):
            self._fail(entry, _failed(name, why))

    def pause(self, name: str, paused: bool) -> None:
        """Hold back (or release) the commands of an agent; what it has it may finish."""
        session = self.session(name)
        session.paused = paused
        if session.address is not None:
            self._send(session.address, Envelope.of(Pause(paused=paused), source="hub"))
        self._dispatch_waiting(session)

    def refuse_new(self) -> None:
        """From now on every new command of a client is answered with `stopping`.

        What runs may still need other agents, so their commands to each other are taken.
        """
        self._stopping = True

    def fail_all(self, why: str) -> None:
        """Give everything in flight its final answer."""
        for entry in self._pending.all():
            self._fail(entry, CommandError(STOPPING, why))

    def stats(self) -> dict[str, int | dict[str, int]]:
        """Counters since the start, and what is in flight."""
        refused = sum(listener.refused for listener in (*self._clients, self._agents))
        return {
            **self.counters,
            "refused_frames": refused,
            "in_flight": len(self._pending),
            "in_flight_by_agent": self._pending.by_agent(),
        }

    # What arrives

    def _client_handlers(self) -> Handlers:
        return {Command: self._on_command, Cancel: self._on_cancel}

    def _agent_handlers(self) -> Handlers:
        return {
            Register: self._on_register,
            Heartbeat: self._on_heartbeat,
            Progress: self._on_progress,
            Result: self._on_final,
            Failure: self._on_final,
        }

    def _hearer(
        self, listener: Listener, handlers: Handlers
    ) -> Callable[[bytes, bytes, str], None]:
        def hear(route: bytes, data: bytes, user: str) -> None:
            address, asked = Address(listener, route), None
            try:
                envelope = decode(data)
                asked = envelope.id
                handler = handlers.get(type(envelope.payload))
                if handler is None:
                    raise BadMessage(f"kind: {envelope.kind!r} is not spoken on this socket")
                handler(address, envelope, envelope.payload)
            except BadMessage as error:
                self.counters["bad_messages"] += 1
                asked = asked or error.asked
                self._send(address, _failure(CommandError(BAD_MESSAGE, str(error)), asked))

        return hear

    def _on_command(self, client: Address, envelope: Envelope, payload: Command) -> None:
        try:
            entry = self._admit(client, envelope, payload)
        except CommandError as error:
            self.counters["refused_" + error.code] += 1
            self._send(client, _failure(error, envelope.id))
            return
        if entry is None:
            self.counters["repeated"] += 1
            return
        self.counters["accepted"] += 1
        log.debug("command.accepted", to=entry.agent, correlation=entry.id)
        self._send(client, _reply(Accepted(agent=entry.agent), envelope.id))
        session = self.session(entry.agent)
        if session.address is None or session.paused:
            waiting = {
                "waiting": f"{session.name} is {'paused' if session.paused else session.state}"
            }
            self._send(client, _reply(Progress(data=waiting), envelope.id))
        self._dispatch_waiting(session)

    def _admit(
        self, client: Address, envelope: Envelope, payload: Command
    ) -> PendingCommand | None:
        of_agent = client.listener is self._agents
        if self._stopping and not of_agent:
            raise CommandError(STOPPING, "the daemon is stopping; ask again when it is back")
        spec = self.table.find(payload.name, internal=of_agent)
        spec.parse(payload.args)  # what is wrong is refused at once, whatever the agent does now
        session = self.session(spec.agent)
        if session.failed:
            raise _failed(spec.agent, session.failed)
        if self._stopping and session.address is None:
            raise CommandError(STOPPING, f"the daemon is stopping, and {spec.agent} is gone")
        now, patience_s = time.monotonic(), None
        if payload.deadline_s is not None:
            deadline = now + payload.deadline_s
        elif spec.long:
            deadline = math.inf
        else:
            patience_s = self._default_deadline_s
            deadline = now + patience_s
        entry = PendingCommand(envelope, client, spec.agent, deadline, patience_s)
        return entry if self._pending.admit(entry) else None

    def _on_cancel(self, client: Address, envelope: Envelope, payload: Cancel) -> None:
        entry = self._pending.get(envelope.correlation or "")
        if entry is not None and entry.client == client:
            self._cancel(entry)

    def _cancel(self, entry: PendingCommand) -> None:
        if entry.cancel_by is not None:
            return  # asking again does not buy the agent more time
        self.counters["cancelled"] += 1
        if not entry.running:
            self._fail(entry, CommandError(CANCELLED, "cancelled before it began"))
            return
        entry.cancel_by = self.session(entry.agent).clock() + CANCEL_GRACE_S
        self._tell_agent(entry.agent, Envelope.of(Cancel(), correlation=entry.id))

    def _on_register(self, address: Address, envelope: Envelope, payload: Register) -> None:
        session = self._known_session(payload.agent)
        if session.address is not None and session.address != address:
            self.agent_lost(payload.agent, "it was started anew")
        session.address, session.process, session.pid = address, payload.process, payload.pid
        session.state, session.failed = "ready", ""
        session.lives()
        self.on_change()
        self._dispatch_waiting(session)

    def _on_heartbeat(self, address: Address, envelope: Envelope, payload: Heartbeat) -> None:
        session = self._known_session(payload.agent)
        if session.address not in (None, address):
            if payload.state != "starting":
                return  # last words of the one before
            self.agent_lost(payload.agent, "it was started anew")
        before = session.state, session.detail, session.revision
        session.state, session.detail, session.stats = payload.state, payload.detail, payload.stats
        session.saving, session.revision, session.refused = (
            payload.saving,
            payload.revision,
            payload.refused,
        )
        session.lives()
        if before != (session.state, session.detail, session.revision):
            session.moved = session.heard
            self.on_change()

    def _known_session(self, name: str) -> AgentSession:
        if name not in self.sessions:
            raise BadMessage(f"agent: {name!r:.100} has no session here")
        return self.sessions[name]

    def _on_progress(self, address: Address, envelope: Envelope, payload: Progress) -> None:
        entry = self._entry_of(address, envelope)
        if entry is not None:
            entry.moved(time.monotonic())
            self._send(entry.client, envelope)

    def _on_final(self, address: Address, envelope: Envelope, payload: Result | Failure) -> None:
        entry = self._entry_of(address, envelope)
        if entry is None:
            self.counters["late_answers"] += 1
            return
        self._pending.close(entry.id)
        self._answer(entry, envelope)

    def _entry_of(self, address: Address, envelope: Envelope) -> PendingCommand | None:
        entry = self._pending.get(envelope.correlation or "")
        if entry is None or not entry.running or self.session(entry.agent).address != address:
            return None
        return entry

    # What goes out

    def _dispatch_waiting(self, session: AgentSession) -> None:
        if session.address is None or session.paused:
            return
        for entry in self._pending.of_agent(session.name, running=False):
            if not self._tell_agent(session.name, entry.command):
                return
            entry.running = True

    def _tell_agent(self, name: str, envelope: Envelope) -> bool:
        address = self.session(name).address
        if address is None:
            return False
        try:
            # A full queue means it reads nothing; heartbeats decide whether it is dead.
            return address.listener.port.send_nowait(address.route, envelope.encode())
        except Unreachable:
            self.agent_lost(name, "its connection closed")
            return False

    def _fail(self, entry: PendingCommand, error: CommandError) -> None:
        if self._pending.close(entry.id) is not None:
            self._answer(entry, _failure(error, entry.id))

    def _answer(self, entry: PendingCommand, envelope: Envelope) -> None:
        self.counters["results" if envelope.kind == Result.kind else "errors"] += 1
        log.debug("command.answered", answer=envelope.kind, correlation=entry.id)
        self._send(entry.client, envelope, final=True)

    def _send(self, address: Any, envelope: Envelope, *, final: bool = False) -> None:
        """A client that has gone is given up; one that does not read keeps its final answers."""
        try:
            if address.listener.port.send_nowait(address.route, envelope.encode()):
                return
        except Unreachable:
            self.counters["undeliverable"] += final
            self._abandon(address)
            return
        if final:
            self._keep(address, envelope)
        slow = CommandError(BUSY, "stopped: this client left too many of its answers unread")
        for entry in self._abandon(address):
            self._keep(address, _failure(slow, entry.id))

    def _abandon(self, client: Address) -> list[PendingCommand]:
        abandoned = self._pending.of_client(client)
        for entry in abandoned:
            self._pending.close(entry.id)
            self.counters["abandoned"] += 1
            if entry.running:
                self._tell_agent(entry.agent, Envelope.of(Cancel(), correlation=entry.id))
        return abandoned

    def _keep(self, client: Address, answer: Envelope) -> None:
        size = len(answer.encode())
        if len(self._unsent) < MAX_UNSENT and self._unsent_bytes + size <= MAX_UNSENT_BYTES:
            self._unsent.append((client, answer))
            self._unsent_bytes += size
        else:
            self.counters["undeliverable"] += 1

    def _send_kept(self) -> None:
        kept, self._unsent, self._unsent_bytes = self._unsent, [], 0
        for client, answer in kept:
            self._send(client, answer, final=True)

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(TICK_S)
            for session in tuple(self.sessions.values()) if len(self._pending) else ():
                self._dispatch_waiting(session)
            self._send_kept()
            now = time.monotonic()
            for entry in self._pending.overdue(now, lambda agent: self.session(agent).clock()):
                self._expire(entry)

    def _expire(self, entry: PendingCommand) -> None:
        if entry.cancel_by is not None:
            self._fail(entry, CommandError(CANCELLED, "cancelled; its agent did not answer"))
            return
        if entry.running:
            self._tell_agent(entry.agent, Envelope.of(Cancel(), correlation=entry.id))
        session = self.session(entry.agent)
        why = "it took too long" if entry.running else f"{entry.agent} is {session.state}"
        if entry.patience_s is not None:
            why += f" (nothing came for {entry.patience_s:g} s); give it a deadline of its own"
        self._fail(entry, CommandError(DEADLINE, f"no answer before the deadline: {why}"))


def _reply(payload: Payload, correlation: str) -> Envelope:
    return Envelope.of(payload, source="hub", correlation=correlation)


def _failure(error: CommandError, correlation: str | None = None) -> Envelope:
    failure = Failure(code=error.code, message=error.message, detail=error.detail)
    return Envelope.of(failure, source="hub", correlation=correlation)


def _failed(agent: str, why: str) -> CommandError:
    return CommandError(AGENT_FAILED, f"{agent} has failed: {why}")
