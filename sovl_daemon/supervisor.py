"""Keeps the children of the hub alive: restarts, and gives up loudly. As in Erlang/OTP."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import anyio
import structlog
from anyio.abc import TaskGroup

from bus.errors import FatalError, TransientError
from bus.messages import HUNG
from bus.router import AgentSession, CommandRouter
from config.service import SupervisionSettings
from sovl_daemon.conditions import condition_of
from sovl_daemon.contracts.hub import ChildStatus
from sovl_daemon.own_time import EVERY_S, OwnTime
from sovl_daemon.restart import RestartHistory, RestartPolicy

log = structlog.get_logger(agent="supervisor")


class GaveUp(Exception):
    """A critical child cannot be kept alive; with `fatal`, starting anew would not help either."""

    def __init__(self, message: str, *, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


class Runner(Protocol):
    """Where a child lives.

    `own_time` is a clock of the time that it had for itself: its silence is counted in that.
    """

    own_time: OwnTime

    async def run(self) -> str:
        """Live until it ends by itself, and tell why it did."""

    def kill(self) -> None:
        """End one that hangs, where that can be done at all."""

    def work(self) -> object:
        """Return what changes as long as it gets on; while it starts that is a sign of life."""


@dataclass(eq=False)
class Child:
    """A process or an agent inside the hub."""

    name: str
    agents: list[str]
    critical: bool
    runner: Runner
    history: RestartHistory
    restarts: int = 0
    started: float = 0.0
    moved: float = 0.0  # when it last got on with its start, in its own time
    worked: object = None
    starved: dict[str, float] = field(default_factory=dict)  # since which sign of life, by agent
    silence: str = ""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


class Death(NamedTuple):
    """Why a child ended; starting it again would not help if `fatal`, and will if it `passes`."""

    child: Child
    why: str
    fatal: bool
    passes: bool


class Supervisor:
    """Starts children in order; when one ends, it and those started after it start again.

    (`rest_for_one`: what was started later may lean on what was started before.)
    """

    def __init__(
        self, children: list[Child], router: CommandRouter, settings: SupervisionSettings
    ) -> None:
        self._children = children
        for child in children:
            for agent in child.agents:
                router.session(agent).clock = child.runner.own_time
        self._router = router
        self._settings = settings
        self._deaths, self._dead = anyio.create_memory_object_stream[Death](100)
        self._stopping = False

    async def run(self) -> None:
        """Live until cancelled. Raises GaveUp."""
        async with anyio.create_task_group() as tasks:
            for child in self._children:
                self._start(tasks, child, 0.0)
            tasks.start_soon(self._watch)
            async for death in self._dead:
                await self._recover(tasks, death)

    async def stop(self) -> None:
        """Stop all children, the last started first."""
        self._stopping = True
        for child in reversed(self._children):
            await self._stop(child)

    def stats(self) -> dict[str, ChildStatus]:
        """How each child fares."""
        now = time.monotonic()
        return {
            child.name: ChildStatus(
                agents=child.agents,
                restarts=child.restarts,
                up_s=round(now - child.started, 1) if child.started else 0.0,
            )
            for child in self._children
        }

    def _start(self, tasks: TaskGroup, child: Child, delay: float) -> None:
        child.scope, child.ended = anyio.CancelScope(), anyio.Event()
        child.started, child.silence = 0.0, ""
        tasks.start_soon(self._live, child, delay)

    async def _live(self, child: Child, delay: float) -> None:
        why, fatal, passes = "", False, False
        try:
            with child.scope:
                await anyio.sleep(delay)
                child.started, child.moved = time.monotonic(), child.runner.own_time()
                why = await child.runner.run()
        except* FatalError as errors:
            why, fatal = _first(errors), True
        except* TransientError as errors:
            why, passes = _first(errors), True
        except* Exception as errors:
            passes = condition_of(errors) is not None
            log.error("child.failed", child=child.name, exc_info=None if passes else errors)
            why = _first(errors)
        child.ended.set()
        if not child.scope.cancel_called and not self._stopping:
            self._deaths.send_nowait(Death(child, child.silence or why, fatal, passes))
        elif why:
            log.warning("child.ended_badly", child=child.name, why=why)

    async def _stop(self, child: Child) -> None:
        child.scope.cancel()
        await child.ended.wait()

    async def _recover(self, tasks: TaskGroup, death: Death) -> None:
        child, why, fatal, passes = death
        if not child.ended.is_set():
            return  # started again meanwhile, together with one that it leans on
        for agent in child.agents:
            self._router.agent_lost(agent, why)
        chance = random.random()  # noqa: S311 - jitter, not a secret
        delay = None if fatal else child.history.delay(time.monotonic(), chance)
        if delay is None and passes:  # a full disk is not given up, only tried seldom
            delay = self._settings.backoff_max_s
        if delay is None:
            log.critical("child.given_up", child=child.name, why=why)
            for agent in child.agents:
                self._router.agent_failed(agent, why)
            if child.critical:
                raise GaveUp(f"{child.name}: {why}", fatal=fatal)
            self._children.remove(child)
            return
        log.warning("child.restarting", child=child.name, why=why, delay_s=round(delay, 3))
        affected = self._children[self._children.index(child) :]
        for other in reversed(affected[1:]):
            await self._stop(other)
            for agent in other.agents:
                self._router.agent_lost(agent, f"{child.name} is being restarted")
        for other in affected:
            other.restarts += 1
            self._start(tasks, other, delay)

    async def _watch(self) -> None:
        """End children whose agents fell silent."""
        while True:
            await anyio.sleep(EVERY_S)
            for child in tuple(self._children):
                self._check(child, child.runner.own_time())

    def _check(self, child: Child, now: float) -> None:
        if not child.started or child.ended.is_set():
            return
        for agent in child.agents:
            session = self._router.session(agent)
            if child.scope.cancel_called and not session.saving:
                continue  # who stops falls silent an agent at a time, and has a limit of its own
            if why := self._fault(child, session, now):
                log.error("child.silent", child=child.name, silent_agent=agent, why=why)
                child.started = 0.0  # once is enough
                child.silence = f"{agent} {why}"
                self._router.agent_lost(agent, f"it {why}, and is being started anew")
                child.runner.kill()
                return

    def _fault(self, child: Child, session: AgentSession, now: float) -> str:
        """Why an agent counts as dead; empty if it does not."""
        if session.state == HUNG:
            return session.detail
        if session.address is None:
            if (worked := child.runner.work()) != child.worked:
                child.worked, child.moved = worked, now
            limit = self._settings.start_timeout_s
            late = now - max(child.moved, session.moved) > limit
            return f"was not ready within {limit:g} s" if late else ""
        limit = self._settings.dead_after_s
        if now - session.heard > limit:
            return f"gave no sign of life for {limit:g} s"
        silent = time.monotonic() - session.seen
        if silent > limit and child.starved.get(session.name) != session.seen:
            child.starved[session.name] = session.seen  # why one that is late is left alone
            log.warning("child.starved", child=child.name, silent_agent=session.name)
        return ""

    def fresh(self) -> bool:
        """Whether every critical agent gave a recent sign of life, or may still be starting."""
        return all(
            child.runner.own_time() - session.heard <= self._settings.dead_after_s
            for child in self._children
            if child.critical
            for session in map(self._router.session, child.agents)
            if session.address is not None
        )


def policy(settings: SupervisionSettings) -> RestartHistory:
    """A clean record under the policy of the settings."""
    return RestartHistory(RestartPolicy.of(settings))


def _first(errors: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    known = isinstance(error, FatalError | TransientError)
    return str(error) if known else f"{type(error).__name__}: {error}"
