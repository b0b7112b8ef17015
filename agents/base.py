"""What every agent is: a life, a line to the hub, commands, events, and hooks around them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import structlog
import zmq
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from agents.hindrance import Hindrance
from agents.middleware import Counters, Middleware, Trace
from bus.async_socket import LINGER_S, AsyncSocket
from bus.caller import Caller
from bus.commands import AgentStats, CommandSpec, Reply, ReplyT, Request, commands_of
from bus.endpoints import Endpoints
from bus.envelope import Envelope, Payload, decode
from bus.errors import (
    CANCELLED,
    INTERNAL,
    UNAVAILABLE,
    BadMessage,
    CommandError,
    TransientError,
)
from bus.link import AgentLink
from bus.messages import HUNG, Cancel, Command, Failure, Heartbeat, Pause, Progress, Result
from bus.publisher import Publisher
from bus.subscriber import Gap, local_subscriber
from bus.topics import AGENT, CONFIG, AgentState, ConfigChanged
from config import Paths, Settings
from sovl_daemon.conditions import condition_of, in_words
from sovl_daemon.contracts.hub import ConfigSet
from sovl_daemon.opened import Opened


class Job:
    """One command in the hands of an agent."""

    def __init__(self, link: AgentLink, envelope: Envelope, command: Command) -> None:
        self.id = envelope.id
        self.name = command.name
        self.client = envelope.source
        self._link = link

    def progress(self, **data: Any) -> None:
        """Tell the client about a step on the way."""
        self._link.send(Progress(data=data), self.id)


class Agent:
    """Base class of agents.

    A subclass sets `name`, marks commands with `bus.commands.command`, and overrides `start`,
    `run`, `stop` and `on_event` as needed.

    Life: created → starting → ready ⇄ paused → stopping → stopped. Any exception ends it; the
    supervisor starts a new one. With `critical`, the daemon gives up when the supervisor does.
    `home` is the process that it runs in unless the configuration places it elsewhere.
    `topics` are the prefixes of the events it follows. Keep the module light: the hub imports it
    for its commands even if it runs elsewhere, so heavy imports belong in `start`.
    """

    name: ClassVar[str]
    home: ClassVar[str] = "hub"
    critical: ClassVar[bool] = False
    topics: ClassVar[tuple[str, ...]] = ()

    # Of the process: what one agent writes down may need its neighbours until it is done.
    _writing: ClassVar[anyio.Lock] = anyio.Lock()

    def __init__(self, settings: Settings, paths: Paths, process: str) -> None:
        self.settings = settings
        self.paths = paths
        self.process = process
        self.state = "created"
        self.detail = ""
        self.log = structlog.get_logger(agent=self.name)
        self.middleware: Sequence[Middleware] = (Counters(), Trace())
        self.opened: Sequence[Opened] = ()  # files that it keeps open: one that is lost ends it
        self._specs = {spec.name: spec for spec in self.commands()}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self.hindrance = Hindrance(self)
        self._revision, self._refused = 0, ""  # of the settings it follows

    @classmethod
    def commands(cls) -> list[CommandSpec]:
        """The commands that this agent offers."""
        return commands_of(cls)

    # For subclasses

    async def start(self) -> None:
        """Get ready. Commands come once this returns."""

    async def run(self) -> None:
        """Work in the background; may end when there is nothing more to do."""

    async def stop(self) -> None:
        """Let go of what `start` took. Always called, also after a failure."""

    async def on_event(self, event: Envelope) -> None:
        """An event of one of `topics` came."""

    async def on_settings(self, before: Settings) -> str | None:
        """Act on changed settings: `self.settings` are the new ones.

        Who changed them is answered when this is over, and told what it returns: what this agent
        cannot follow of them, in words.
        """

    async def try_to_write(self) -> None:
        """Try what the system has refused; raises while it still does."""
        await self.hindrance.try_to_write(self.paths.state_dir)

    def hangs(self) -> str:
        """What hangs, in words, empty while the work itself moves; the agent is ended for it."""
        return ""

    def stats(self) -> AgentStats:
        """Counters of its own, shown by `sovl stats`; asked for while it is ready."""
        return AgentStats()

    async def say(self, detail: str) -> None:
        """Tell people what it is about: shown by `sovl status`."""
        await self._enter(self.state, detail)

    @asynccontextmanager
    async def saving(self) -> AsyncIterator[None]:
        """Write something down that a stop has to wait for; shield it from being cancelled."""
        async with self._writing:
            self._give_sign()
            yield
        self._give_sign()

    async def publish(self, topic: str, payload: Payload, *, retain: bool = False) -> None:
        """Publish an event."""
        correlation = structlog.contextvars.get_contextvars().get("correlation")
        try:
            await self._publisher.publish(topic, payload, correlation=correlation, retain=retain)
        except CommandError as error:  # no reason to end what it would have told of
            self.log.error("event.not_sent", topic=topic, reason=error.message)

    async def ask(self, request: Request[ReplyT], /) -> ReplyT:
        """Run a command of another agent and return its reply. Raises CommandError."""
        return request.read(await self._link.caller.ask(request.command_name, **request.wire()))

    async def control(self, request: Request[ReplyT], /) -> ReplyT:
        """Ask the hub itself, as a client may: `ConfigSet`, for one. Raises CommandError."""
        port = AsyncSocket(zmq.DEALER).connect(self._endpoints.control)

        def send(envelope: Envelope) -> None:
            port.send_nowait(envelope.encode())

        caller = Caller(send, source=self.name)
        try:
            async with caller.call(request.command_name, request.wire()) as call:
                while True:
                    reply = decode((await port.receive())[-1])
                    if caller.feed(reply) and isinstance(reply.payload, Result | Failure):
                        return request.read(await call.result())
        finally:
            port.close(linger_s=LINGER_S)  # it may have been told to cancel

    async def configure(self, values: Mapping[str, Any]) -> None:
        """Set keys for good, all of them or none; all agents follow then. Raises CommandError.

        Not to be called by `on_event` or `on_settings`: this agent follows when they are over.
        """
        if values:
            texts = {key: json.dumps(value) for key, value in values.items()}
            await self.control(ConfigSet(values=texts))

    # The life of an agent

    def check_files(self) -> None:
        """Raise TransientError where a file that `opened` lists is no longer at its path.

        What is written to it now nobody would find; once started again, the agent has the one that
        is there.
        """
        for file in self.opened:
            if fault := file.fault():
                raise TransientError(f"{file.path} was {fault} while it was open")

    async def serve(self) -> None:
        """Live until cancelled. Raises what went wrong."""
        async with self._connected(), anyio.create_task_group() as both:
            line = anyio.CancelScope(shield=True)
            try:
                async with anyio.create_task_group() as tasks:
                    both.start_soon(self._keep_line, line, tasks)
                    await self._live(tasks)
            finally:
                # Whoever uses what `start` took has ended by now.
                with anyio.CancelScope(shield=True):
                    try:
                        async with self._writing:
                            pass
                        await self.stop()
                        await self._enter("stopped")
                    finally:
                        line.cancel()

    async def _live(self, tasks: TaskGroup) -> None:
        try:
            await self._enter("starting")
            await self.start()
            await self._enter("ready", self.hindrance.says)
            self._link.register()
            tasks.start_soon(self._follow)
            tasks.start_soon(self.hindrance.watch)
            await self.run()
            await anyio.sleep_forever()  # without work in the background, commands still come
        finally:
            with anyio.CancelScope(shield=True):
                await self._enter("stopping")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        endpoints = Endpoints.local(self.paths.runtime_dir)
        limit = self.settings.bus.max_message_bytes
        self._endpoints = endpoints
        self._link = AgentLink(endpoints.agents, self.name, self.process, max_bytes=limit)
        self._publisher = Publisher(endpoints.publish, self.name, max_bytes=limit)
        try:
            yield
        finally:
            self._publisher.close()
            self._link.close()

    async def _enter(self, state: str, detail: str = "") -> None:
        self.state, self.detail = state, detail
        for each in self.middleware:
            each.state_changed(self, state)
        self._give_sign()
        payload = AgentState(
            agent=self.name, state=state, detail=detail, process=self.process, pid=os.getpid()
        )
        await self.publish(f"{AGENT}.{self.name}", payload, retain=True)

    async def _keep_line(self, line: anyio.CancelScope, tasks: TaskGroup) -> None:
        """Speak and listen to the very end: what is being saved needs both, and may take long."""
        with line:
            async with anyio.create_task_group() as both:
                both.start_soon(self._beat)
                both.start_soon(self._listen, tasks)

    async def _beat(self) -> None:
        while True:
            if self.opened:
                await anyio.to_thread.run_sync(self.check_files)
            if trouble := self.hangs():
                await self._enter(HUNG, trouble)
            else:
                self._give_sign()
            await anyio.sleep(self.settings.supervision.heartbeat_s)

    def _give_sign(self) -> None:
        counted = [each.stats() for each in self.middleware]
        if self.state == "ready":  # else what they are taken from may not be there
            counted.append(self.stats())
        beat = Heartbeat(
            agent=self.name,
            state=self.state,
            detail=self.detail,
            # The lock is the process's; who has stopped has nothing to do with it any more.
            saving=self._writing.locked() and self.state != "stopped",
            revision=self._revision,
            refused=self._refused,
            stats={name: value for each in counted for name, value in each.wire().items()},
        )
        self._link.beat(beat)

    async def _listen(self, tasks: TaskGroup) -> None:
        while True:
            try:
                envelope = await self._link.receive()
            except BadMessage as error:
                self.log.warning("agent.bad_message", reason=str(error))
                continue
            match envelope.payload:
                case Command() as command if self.state not in ("stopping", "stopped"):
                    # Made here, so that a cancel right behind the command finds it.
                    scope = self._scopes[envelope.id] = anyio.CancelScope()
                    tasks.start_soon(self._handle, envelope, command, scope)
                case Cancel():
                    if found := self._scopes.get(envelope.correlation or ""):
                        found.cancel()
                case Pause(paused=paused):
                    await self._enter("paused" if paused else "ready", self.hindrance.says)

    async def _handle(self, envelope: Envelope, command: Command, scope: anyio.CancelScope) -> None:
        structlog.contextvars.bind_contextvars(correlation=envelope.id)
        job = Job(self._link, envelope, command)
        began = time.monotonic()
        for each in self.middleware:
            each.before_command(self, job)
        answer = await self._answer(job, command, scope)
        error = CommandError(answer.code, answer.message) if isinstance(answer, Failure) else None
        for each in self.middleware:
            each.after_command(self, job, time.monotonic() - began, error)
        self._link.answer(answer, job.name, job.id)

    async def _answer(
        self, job: Job, command: Command, scope: anyio.CancelScope
    ) -> Result | Failure:
        spec = self._specs[command.name]
        try:
            with scope:
                await checkpoint()  # cancelled before it began
                reply: Reply = await getattr(self, spec.method)(spec.parse(command.args), job)
                return Result(data=reply.wire())
            return Failure(code=CANCELLED, message="cancelled")
        except CommandError as error:
            return Failure(code=error.code, message=error.message, detail=error.detail)
        except TransientError as error:
            return Failure(code=UNAVAILABLE, message=f"{self.name}: {error}"[:500])
        except Exception as error:
            if condition_of(error) is not None:
                await self.hindrance.meet(error)
                return Failure(code=UNAVAILABLE, message=f"{self.name}: {in_words(error)}"[:500])
            self.log.exception("command.failed", command=command.name)
            message = f"{self.name}: {type(error).__name__}: {error}"
            return Failure(code=INTERNAL, message=message[:500])
        finally:
            self._scopes.pop(job.id, None)

    async def _take_settings(self, event: ConfigChanged) -> None:
        before, self.settings = self.settings, Settings.model_validate(event.settings)
        self._refused = await self.on_settings(before) or ""
        self._revision = event.revision
        self._give_sign()

    async def _follow(self) -> None:
        queue = self.settings.bus.subscriber_queue
        topics = (CONFIG, *self.topics)
        async with local_subscriber(
            self._endpoints.events, topics, name=self.name, queue=queue
        ) as events:
            async for event in events:
                if isinstance(event.payload, ConfigChanged):
                    await self._take_settings(event.payload)
                elif isinstance(event.payload, Gap):
                    self.log.warning("agent.events_missed", **event.payload.model_dump())
                if event.topic.startswith(self.topics):
                    async with self.hindrance.met():
                        await self.on_event(event)
