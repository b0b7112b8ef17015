"""The hub: sockets, supervisor and settings of one daemon, in one small process.

It never imports torch, is up in under a second, and answers in milliseconds while models work.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import structlog

from bus.errors import BindProblem
from bus.router import AgentSession
from bus.topics import CONFIG, HUB, ConfigChanged, HubState
from config import ConfigError, Paths, Settings, changed, load, save, with_values
from sovl_daemon import log, registry
from sovl_daemon.contracts.hub import FOLLOW_S
from sovl_daemon.controls import Controls
from sovl_daemon.heavy_imports import heavy_imports
from sovl_daemon.hub_sockets import HubSockets
from sovl_daemon.instance import Displaced, Instance
from sovl_daemon.library_caches import use_library_caches
from sovl_daemon.notify import Notifier
from sovl_daemon.own_time import OwnTime, move_on_after
from sovl_daemon.process import WorkerProcess
from sovl_daemon.signals import heard
from sovl_daemon.supervisor import Child, Runner, Supervisor, policy

DRAIN_CHECK_S = 0.05
EXTEND_EVERY_S = 10.0
LOOK_S = 1.0  # until it is noticed that somebody removed the sockets

logger = structlog.get_logger(agent="hub")


class Hub:
    """One daemon. `overrides` are settings from the command line; they outlive a reload.

    A `config_named` by somebody has to be there at each reload, the default one need not.
    """

    def __init__(
        self,
        settings: Settings,
        config_file: Path,
        overrides: dict[str, str] | None = None,
        *,
        config_named: bool = False,
    ) -> None:
        self.settings = settings
        self.dry_run = settings.training_config.dry_run  # as long as the daemon lives
        self.paths = Paths.of(settings)
        self.state, self.detail = "", ""
        self._config_file, self._config_named = config_file, config_named
        self._overrides = overrides or {}
        self._notifier = Notifier()
        self._own_time = OwnTime()
        self._stop, self._hurry = anyio.Event(), anyio.Event()
        self._was_ready = False
        self._revision = 0  # of the settings
        self._agents_moved = anyio.Event()
        self._displaced: Displaced | None = None

    async def run(self) -> None:
        """Live until told to stop.

        Raises AlreadyRunning, RegistryError, KeyProblem, BindProblem and ConfigError before
        anything starts, GaveUp when an agent that the daemon needs cannot be kept alive, and
        Displaced when its state directory was removed or another daemon took its place.
        """
        self.paths.ensure()
        use_library_caches(self.paths)
        with heavy_imports():
            self._agents = registry.find_agents(self.settings)
        table = registry.command_table(self._agents)
        board = HubSockets(self.settings.bus, self.paths, table, Controls.table())
        close_s = self.settings.supervision.close_s
        signals = heard(self._on_signal, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with signals, Instance(self.paths) as instance, board.open(Controls(self), close_s):
            self.broker, self.router, self.responder = board.broker, board.router, board.responder
            self.supervisor = Supervisor(self._children(), self.router, self.settings.supervision)
            await self._live(board, instance)
        logger.info("hub.stopped")
        if self._displaced is not None:
            raise self._displaced

    def _children(self) -> list[Child]:
        children = []
        for group in registry.groups(self.settings, self._agents):
            history = policy(self.settings.supervision)
            runner = self._runner(group)
            children.append(Child(group.title, list(group.agents), group.critical, runner, history))
            for name in group.agents:
                self.router.session(name)
        return children

    def _runner(self, group: registry.Group) -> Runner:
        if group.process == registry.HUB:
            agent = self._agents[group.title]
            return _AgentTask(
                lambda: agent(self._child_settings(), self.paths, registry.HUB), self._own_time
            )
        sessions = [self.router.session(name) for name in group.agents]
        return WorkerProcess(
            group.process,
            list(group.agents),
            self._child_settings,
            lambda: any(session.saving for session in sessions),
        )

    def _child_settings(self) -> Settings:
        """Those of now, but a dry run begins and ends for all of them at once, with the daemon."""
        dry = {"dry_run": self.dry_run}
        training = self.settings.training_config.model_copy(update=dry)
        return self.settings.model_copy(update={"training_config": training})

    # Life

    async def _live(self, board: HubSockets, instance: Instance) -> None:
        self._publish_settings({})
        self.router.on_change = self._on_change
        self._refresh_state()
        async with anyio.create_task_group() as services:
            services.start_soon(board.run)
            services.start_soon(self._pat_watchdog)
            services.start_soon(self._ask_for_time)
            services.start_soon(self._stay_reachable, board, instance)
            services.start_soon(self.supervisor.run)
            await self._stop.wait()
            await self._shut_down()
            services.cancel_scope.cancel()

    async def _shut_down(self) -> None:
        """In stages, each with its budget; the unit's TimeoutStopSec is above their sum."""
        budget = self.settings.supervision
        self._notifier.stopping(budget.drain_s + budget.stop_s + budget.close_s)
        self._set_state("stopping", self.detail)
        self.router.refuse_new()
        with anyio.move_on_after(budget.drain_s):
            await self._nothing_in_flight()
        self.router.fail_all("the daemon is stopping")
        await self.supervisor.stop()

    async def _nothing_in_flight(self) -> None:
        while self.router.in_flight() and not self._hurry.is_set():  # noqa: ASYNC110
            await anyio.sleep(DRAIN_CHECK_S)

    def request_stop(self, why: str) -> None:
        """Begin to stop; a second time, do not wait for what runs."""
        logger.info("hub.stop_requested", why=why)
        if self._stop.is_set():
            self._hurry.set()
        self.detail = why
        self._stop.set()

    def _on_signal(self, number: signal.Signals) -> None:
        if number != signal.SIGHUP:
            self.request_stop(number.name)
        elif not self._stop.is_set():
            self._reload_on_signal()

    async def _pat_watchdog(self) -> None:
        if self._notifier.watchdog_s is None:
            return
        while True:
            if self.supervisor.fresh():
                self._notifier.watchdog()
            await anyio.sleep(self._notifier.watchdog_s / 2)

    async def _ask_for_time(self) -> None:
        """While it starts or stops, the supervisor judges how long that may take, not systemd."""
        while True:
            if self.state in ("starting", "stopping"):
                self._notifier.extend(3 * EXTEND_EVERY_S)
            await anyio.sleep(EXTEND_EVERY_S)

    async def _stay_reachable(self, board: HubSockets, instance: Instance) -> None:
        """Make anew what others remove of locks and sockets, as at a logout; end without a state.

        What cannot be made now is tried again, as when the user is back.
        """
        told = ""
        while True:
            await anyio.sleep(LOOK_S)
            try:
                if await anyio.to_thread.run_sync(instance.check) and board.reachable:
                    continue
                instance.renew()
                board.bind_anew()
            except Displaced as error:
                self._displaced = error
                self.request_stop(str(error))
                return
            except (ConfigError, BindProblem, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    logger.error("hub.unreachable", reason=told)
            else:
                told = ""
                logger.warning("hub.reachable_again", directory=str(self.paths.runtime_dir))

    # State

    def _on_change(self) -> None:
        self._refresh_state()
        self._agents_moved.set()
        self._agents_moved = anyio.Event()

    def _refresh_state(self) -> None:
        """The daemon is ready when every critical agent is."""
        if self.state == "stopping":
            return
        waiting = [
            f"{session.name}: {session.detail or session.state}"
            for session in self.router.sessions.values()
            if self._agents[session.name].critical and session.address is None
        ]
        if not waiting:
            self._was_ready = True
            self._set_state("ready", "")
        else:
            self._set_state("degraded" if self._was_ready else "starting", "; ".join(waiting))

    def _set_state(self, state: str, detail: str) -> None:
        if (state, detail) == (self.state, self.detail) and state != "stopping":
            return
        entered = state != self.state
        self.state, self.detail = state, detail
        self.broker.publish(HUB, HubState(state=state, detail=detail), retain=True)
        if entered:
            logger.info("hub.state", state=state, detail=detail)
        if state == "ready":
            self._notifier.ready("ready")
        else:
            self._notifier.status(f"{state}: {detail}" if detail else state)

    # Settings

    def change_settings(self, texts: Mapping[str, str], keep: bool) -> None:
        """Set keys live and, with `keep`, in the file. Raises ConfigError, changing nothing."""
        settings = with_values(self.settings, texts)
        if keep:
            # From the file alone: what came by environment or command line stays out of it.
            save(with_values(self._load({}, environ={}), texts), self._config_file)
        if not self._apply(settings):
            self._publish_settings({})  # an agent that could not follow before tries once more

    async def followers(self) -> tuple[list[str], dict[str, str]]:
        """Wait until the agents follow the settings of now, for a time that is theirs.

        Returns those that do not by then, and what the others cannot follow, by agent.
        """
        revision = self._revision

        def behind() -> list[AgentSession]:
            sessions = self.router.sessions.values()
            return [s for s in sessions if s.address is not None and s.revision < revision]

        with move_on_after(FOLLOW_S, OwnTime(lambda: [session.pid for session in behind()])):
            while behind():
                await self._agents_moved.wait()
        late = [session.name for session in behind()]
        sessions = self.router.sessions.values()
        refused = {s.name: s.refused for s in sessions if s.refused and s.address is not None}
        return late, {name: why for name, why in refused.items() if name not in late}

    def reload(self) -> dict[str, tuple[Any, Any]]:
        """Read the file again. Raises ConfigError and keeps the good settings if it is faulty."""
        return self._apply(self.saved_settings())

    def saved_settings(self) -> Settings:
        """What would be in force after a restart. Raises ConfigError if the file is faulty."""
        return self._load(self._overrides)

    def _reload_on_signal(self) -> None:
        self._notifier.reloading()
        try:
            self.reload()
        except Exception as error:  # whatever is wrong with the file, the daemon goes on
            for fault in str(error).splitlines():
                logger.error("config.refused", fault=fault)
        self._notifier.ready(self.state)

    def _apply(self, settings: Settings) -> dict[str, tuple[Any, Any]]:
        changes = changed(self.settings, settings)
        self.settings = settings
        if changes:
            log.set_level(settings.logging.level)
            logger.info("config.changed", keys=sorted(changes))
            self._publish_settings({key: new for key, (_, new) in changes.items()})
        return changes

    def _publish_settings(self, changes: dict[str, Any]) -> None:
        settings = self.settings.model_dump(mode="json")
        self._revision += 1
        event = ConfigChanged(changed=changes, settings=settings, revision=self._revision)
        self.broker.publish(CONFIG, event, retain=True)

    def _load(
        self, overrides: Mapping[str, str], environ: Mapping[str, str] | None = None
    ) -> Settings:
        """The file that was there at the start must be there still, unless nobody named it."""
        return load(self._config_file, overrides, environ, required=self._config_named)


class _AgentTask:
    """An agent that lives inside the hub."""

    def __init__(self, make: Callable[[], registry.AgentProtocol], own_time: OwnTime) -> None:
        self.own_time = own_time
        self._make = make
        self._scope = anyio.CancelScope()

    async def run(self) -> str:
        """Live until the agent ends; raises what it raised."""
        with anyio.CancelScope() as self._scope:
            await self._make().serve()
            return "ended by itself"
        return "gave no sign of life"

    def work(self) -> object:
        """Nothing of its own can be told."""
        return None

    def kill(self) -> None:
        """End it: it fell silent."""
        self._scope.cancel()
