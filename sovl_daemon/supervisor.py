"""Keeps the children of the hub alive: restarts, and gives up loudly. As in Erlang/OTP."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import structlog
from anyio.abc import TaskGroup

from bus.errors import FatalError
from bus.router import CommandRouter
from config.service import Supervision
from sovl_daemon.restart import RestartHistory, RestartPolicy

CHECK_S = 0.25

log = structlog.get_logger(agent="supervisor")


class GaveUp(Exception):
    """A critical child cannot be kept alive; with `fatal`, starting anew would not help either."""

    def __init__(self, message: str, *, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


@dataclass(eq=False)
class Child:
    """A process or an agent inside the hub. `run` lives until it ends and tells why it did.

    `kill` ends one that hangs, where that can be done at all.
    """

    name: str
    agents: list[str]
    critical: bool
    run: Callable[[], Awaitable[str]]
    kill: Callable[[], None]
    history: RestartHistory
    restarts: int = 0
    started: float = 0.0
    silence: str = ""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


class Supervisor:
    """Starts children in order; when one ends, it and those started after it start again.

    (`rest_for_one`: what was started later may lean on what was started before.)
    """

    def __init__(self, children: list[Child], router: CommandRouter, settings: Supervision) -> None:
        self._children = children
        self._router = router
        self._settings = settings
        self._deaths, self._dead = anyio.create_memory_object_stream[tuple[Child, str, bool]](100)
        self._stopping = False

    async def run(self) -> None:
        """Live until cancelled. Raises GaveUp."""
        async with anyio.create_task_group() as tasks:
            for child in self._children:
                self._start(tasks, child, 0.0)
            tasks.start_soon(self._watch)
            async for child, why, fatal in self._dead:
                await self._recover(tasks, child, why, fatal=fatal)

    async def stop(self) -> None:
        """Stop all children, the last started first."""
        self._stopping = True
        for child in reversed(self._children):
            await self._stop(child)

    def stats(self) -> dict[str, dict[str, object]]:
        """How each child fares."""
        now = time.monotonic()
        return {
            child.name: {
                "agents": child.agents,
                "restarts": child.restarts,
                "up_s": round(now - child.started, 1) if child.started else 0.0,
            }
            for child in self._children
        }

    def _start(self, tasks: TaskGroup, child: Child, delay: float) -> None:
        child.scope, child.ended = anyio.CancelScope(), anyio.Event()
        child.started, child.silence = 0.0, ""
        tasks.start_soon(self._live, child, delay)

    async def _live(self, child: Child, delay: float) -> None:
        why, fatal = "", False
        try:
            with child.scope:
                await anyio.sleep(delay)
                child.started = time.monotonic()
                why = await child.run()
        except* FatalError as errors:
            why, fatal = _first(errors), True
        except* Exception as errors:
            log.error("child.failed", child=child.name, exc_info=errors)
            why = _first(errors)
        child.ended.set()
        if not child.scope.cancel_called and not self._stopping:
            self._deaths.send_nowait((child, child.silence or why, fatal))

    async def _stop(self, child: Child) -> None:
        child.scope.cancel()
        await child.ended.wait()

    async def _recover(self, tasks: TaskGroup, child: Child, why: str, *, fatal: bool) -> None:
        if not child.ended.is_set():
            return  # started again meanwhile, together with one that it leans on
        for agent in child.agents:
            self._router.agent_lost(agent, why)
        chance = random.random()  # noqa: S311 - jitter, not a secret
        delay = None if fatal else child.history.delay(time.monotonic(), chance)
        if delay is None:
            self._give_up(child, why, fatal=fatal)
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

    def _give_up(self, child: Child, why: str, *, fatal: bool) -> None:
        log.critical("child.given_up", child=child.name, why=why)
        for agent in child.agents:
            self._router.agent_failed(agent, why)
        if child.critical:
            raise GaveUp(f"{child.name}: {why}", fatal=fatal)
        self._children.remove(child)

    async def _watch(self) -> None:
        """End children whose agents fell silent."""
        before = time.monotonic()
        while True:
            await anyio.sleep(CHECK_S)
            now = time.monotonic()
            if now - before > 4 * CHECK_S:
                self._forgive(now)  # we were asleep ourselves: nobody else is to blame
            before = now
            for child in tuple(self._children):
                self._check(child, now)

    def _forgive(self, now: float) -> None:
        for seat in self._router.seats.values():
            seat.seen = now

    def _check(self, child: Child, now: float) -> None:
        if not child.started or child.ended.is_set():
            return
        for agent in child.agents:
            seat = self._router.seat(agent)
            if seat.address is None:
                limit, silent = self._settings.start_timeout_s, now - child.started
                why = f"was not ready within {limit:g} s"
            else:
                limit, silent = self._settings.dead_after_s, now - seat.seen
                why = f"gave no sign of life for {limit:g} s"
            if silent > limit:
                log.error("child.silent", child=child.name, silent_agent=agent, s=round(silent, 1))
                child.started = 0.0  # once is enough
                child.silence = f"{agent} {why}"
                self._router.agent_lost(agent, f"it {why}")
                child.kill()
                return

    def fresh(self) -> bool:
        """Whether every critical agent gave a recent sign of life, or may still be starting."""
        now = time.monotonic()
        return all(
            now - seat.seen <= self._settings.dead_after_s
            for child in self._children
            if child.critical
            for seat in map(self._router.seat, child.agents)
            if seat.address is not None
        )


def policy(settings: Supervision) -> RestartHistory:
    """A clean record under the policy of the settings."""
    return RestartHistory(RestartPolicy.of(settings))


def _first(errors: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, FatalError) else f"{type(error).__name__}: {error}"
