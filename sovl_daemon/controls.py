"""What the control socket answers: quick facts and switches of the hub itself."""

from __future__ import annotations

import asyncio
import os
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

from bus.commands import CommandTable, command, commands_of
from bus.errors import BAD_ARGUMENT, UNAVAILABLE, CommandError
from bus.topics import HEALTH, METRICS
from config import ConfigError, get_value, needs_restart, resolve_key
from sovl_daemon import log
from sovl_daemon.conditions import condition_of
from sovl_daemon.contracts.hub import (
    AgentPaused,
    AgentStatus,
    CommandList,
    ConfigSaved,
    ConfigSet,
    DaemonStats,
    DaemonStatus,
    LastHealth,
    LastMetrics,
    ListCommands,
    PauseAgent,
    Ping,
    Pong,
    Reload,
    Reloaded,
    ResumeAgent,
    SavedSetting,
    SettingChange,
    SettingsChanged,
    ShowConfig,
    ShowHealth,
    ShowMetrics,
    ShownConfig,
    Stats,
    Status,
    Stop,
    Stopping,
)

if TYPE_CHECKING:
    from sovl_daemon.hub import Hub

VERSION = version("sovl-daemon")  # read once: it is a file


class Controls:
    """Commands of the control socket. None but `config_set` waits for what a busy model does."""

    name: ClassVar[str] = "hub"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._began = time.monotonic()

    @classmethod
    def table(cls) -> CommandTable:
        """The commands of this socket."""
        return CommandTable(commands_of(cls))

    @command(Ping)
    async def ping(self, request: Ping) -> Pong:
        """Tell that the hub is there, and in what state."""
        return Pong(
            state=self._hub.state,
            detail=self._hub.detail,
            version=VERSION,
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self._began, 3),
            max_message_bytes=self._hub.settings.bus.max_message_bytes,
        )

    @command(Status)
    async def status(self, request: Status) -> DaemonStatus:
        """Show the hub, its agents and processes."""
        now = time.monotonic()
        sessions = self._hub.router.sessions.values()
        agents = {
            session.name: AgentStatus(
                state="paused" if session.paused else session.state,
                detail=session.detail,
                process=session.process,
                pid=session.pid,
                silent_s=round(now - session.seen, 1) if session.seen else None,
            )
            for session in sessions
        }
        told = [
            f"{session.name}: {session.detail}"
            for session in sessions
            if session.address and session.detail
        ]
        pong = await self.ping(Ping())
        return DaemonStatus(
            **pong.wire(),
            agents=agents,
            children=self._hub.supervisor.stats(),
            dry_run=self._hub.dry_run,
            in_flight=self._hub.router.in_flight(),
            troubles=[*log.troubles(), *told],
        )

    @command(Stats)
    async def stats(self, request: Stats) -> DaemonStats:
        """Show the counters of bus, router and agents."""
        return DaemonStats(
            bus=self._hub.broker.stats(),
            commands=self._hub.router.stats(),
            control=dict(self._hub.responder.counters),
            hub={"tasks": len(asyncio.all_tasks())},
            agents={session.name: session.stats for session in self._hub.router.sessions.values()},
        )

    @command(ShowHealth)
    async def health(self, request: ShowHealth) -> LastHealth:
        """Show the last health sample."""
        last = self._hub.broker.last(HEALTH)
        return LastHealth() if last is None else LastHealth.model_validate(last.model_dump())

    @command(ShowMetrics)
    async def metrics(self, request: ShowMetrics) -> LastMetrics:
        """Show the last metrics of each task, as they were checked."""
        last = self._hub.broker.last(METRICS)
        return LastMetrics() if last is None else LastMetrics.model_validate(last.model_dump())

    @command(ListCommands)
    async def commands(self, request: ListCommands) -> CommandList:
        """List the commands of both sockets with their arguments and answers."""
        return CommandList(
            commands=[spec.describe() for spec in self._hub.router.table.public()],
            control=[spec.describe() for spec in self.table().public()],
        )

    @command(Stop)
    async def stop(self, request: Stop) -> Stopping:
        """Stop the daemon: finish what runs, save, end."""
        self._hub.request_stop("asked by a client")
        return Stopping(stopping=True)

    @command(PauseAgent)
    async def pause(self, request: PauseAgent) -> AgentPaused:
        """Hold an agent's commands back until it is resumed."""
        return self._set_paused(request.agent, True)

    @command(ResumeAgent)
    async def resume(self, request: ResumeAgent) -> AgentPaused:
        """Let a paused agent go on."""
        return self._set_paused(request.agent, False)

    def _set_paused(self, agent: str, paused: bool) -> AgentPaused:
        if agent not in self._hub.router.sessions:
            known = ", ".join(self._hub.router.sessions)
            raise CommandError(BAD_ARGUMENT, f"agent: no agent {agent!r}; there are: {known}")
        self._hub.router.pause(agent, paused)
        return AgentPaused(agent=agent, paused=paused)

    @command(ShowConfig)
    async def show_config(self, request: ShowConfig) -> ShownConfig:
        """Show one setting or all of them."""
        settings = self._hub.settings
        if request.key is None:
            return ShownConfig(settings=settings.model_dump(mode="json"))
        key = _explained(resolve_key, request.key)
        return ShownConfig(key=key, value=get_value(settings, key))

    @command(ConfigSaved)
    async def config_saved(self, request: ConfigSaved) -> SavedSetting:
        """What a setting would be after a restart, as the configuration file is now."""
        settings = _explained(self._hub.saved_settings)
        return SavedSetting(value=get_value(settings, _explained(resolve_key, request.key)))

    @command(ConfigSet)
    async def config_set(self, request: ConfigSet) -> SettingsChanged:
        """Change settings, at once where it can be, and in the file; the agents follow by then."""
        match request.key, request.value, request.values:
            case str(key), str(value), None:
                texts = {key: value}
            case None, None, dict(texts):
                pass
            case _:
                raise CommandError(BAD_ARGUMENT, "config_set: give key and value, or values")
        before = self._hub.settings
        _explained(self._hub.change_settings, texts, request.save)
        now, keys = self._hub.settings, map(resolve_key, texts)
        late, refused = await self._hub.followers()
        changes = [
            SettingChange(
                key=key,
                value=get_value(now, key),
                before=get_value(before, key),
                restart=needs_restart(key),
            )
            for key in keys
        ]
        if request.values is not None:
            return SettingsChanged(changes=changes, late=late, refused=refused)
        return SettingsChanged(**changes[0].wire(), late=late, refused=refused)

    @command(Reload)
    async def reload(self, request: Reload) -> Reloaded:
        """Read the configuration file again; a faulty one is refused and changes nothing."""
        changes = _explained(self._hub.reload)
        return Reloaded(changed={key: new for key, (_, new) in changes.items()})


def _explained(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except ConfigError as error:
        faults = str(error).splitlines()
        code = BAD_ARGUMENT if condition_of(error) is None else UNAVAILABLE
        raise CommandError(code, "; ".join(faults), {"faults": faults}) from None
