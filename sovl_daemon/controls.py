"""What the control socket answers: quick facts and switches of the hub itself."""

from __future__ import annotations

import asyncio
import os
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bus.commands import Arguments, CommandTable, NoArguments, command, commands_of
from bus.errors import BAD_ARGUMENT, UNAVAILABLE, CommandError
from bus.topics import HEALTH, METRICS
from config import ConfigError, get_value, needs_restart, resolve_key
from sovl_daemon import log
from sovl_daemon.conditions import condition_of

if TYPE_CHECKING:
    from sovl_daemon.hub import Hub

VERSION = version("sovl-daemon")  # read once: it is a file


class AgentArguments(Arguments):
    """Which agent."""

    agent: str = Field(description="Name of the agent.")


class KeyArguments(Arguments):
    """Which setting."""

    key: str | None = Field(default=None, description="A key; all settings when left out.")


class OneKeyArguments(Arguments):
    """Which setting."""

    key: str = Field(description="A key, with or without its section.")


class SetArguments(Arguments):
    """A setting and its new value."""

    key: str = Field(description="A key, with or without its section.")
    value: str = Field(description="The new value, as JSON or plain text.")
    save: bool = Field(default=True, description="Also write it to the configuration file.")


class Controls:
    """Commands of the control socket. Each is quick: a busy model cannot delay them."""

    name: ClassVar[str] = "hub"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._began = time.monotonic()

    @classmethod
    def table(cls) -> CommandTable:
        """The commands of this socket."""
        return CommandTable(commands_of(cls))

    @command()
    async def ping(self, args: NoArguments) -> dict[str, Any]:
        """Tell that the hub is there, and in what state."""
        return {
            "state": self._hub.state,
            "detail": self._hub.detail,
            "version": VERSION,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._began, 3),
            "max_message_bytes": self._hub.settings.bus.max_message_bytes,
        }

    @command()
    async def status(self, args: NoArguments) -> dict[str, Any]:
        """Show the hub, its agents and processes."""
        now = time.monotonic()
        agents = {
            seat.name: {
                "state": "paused" if seat.paused else seat.state,
                "detail": seat.detail,
                "process": seat.process,
                "pid": seat.pid,
                "silent_s": round(now - seat.seen, 1) if seat.seen else None,
            }
            for seat in self._hub.router.seats.values()
        }
        return {
            **await self.ping(args),
            "agents": agents,
            "children": self._hub.supervisor.stats(),
            "dry_run": self._hub.dry_run,
            "in_flight": self._hub.router.in_flight(),
            "troubles": [
                *log.troubles(),
                *(
                    f"{s.name}: {s.detail}"
                    for s in self._hub.router.seats.values()
                    if s.address and s.detail
                ),
            ],
        }

    @command()
    async def stats(self, args: NoArguments) -> dict[str, Any]:
        """Show the counters of bus, router and agents."""
        return {
            "bus": self._hub.broker.stats(),
            "commands": self._hub.router.stats(),
            "control": dict(self._hub.responder.counters),
            "hub": {"tasks": len(asyncio.all_tasks())},
            "agents": {seat.name: seat.stats for seat in self._hub.router.seats.values()},
        }

    @command()
    async def health(self, args: NoArguments) -> dict[str, Any]:
        """Show the last health sample."""
        return self._hub.broker.last(HEALTH) or {}

    @command()
    async def metrics(self, args: NoArguments) -> dict[str, Any]:
        """Show the last metrics of each task, as they were checked."""
        return self._hub.broker.last(METRICS) or {}

    @command()
    async def commands(self, args: NoArguments) -> dict[str, Any]:
        """List the commands of both sockets with their arguments."""
        return {
            "commands": [spec.describe() for spec in self._hub.router.table.public()],
            "control": [spec.describe() for spec in self.table().public()],
        }

    @command()
    async def stop(self, args: NoArguments) -> dict[str, Any]:
        """Stop the daemon: finish what runs, save, end."""
        self._hub.request_stop("asked by a client")
        return {"stopping": True}

    @command(AgentArguments)
    async def pause(self, args: AgentArguments) -> dict[str, Any]:
        """Hold an agent's commands back until it is resumed."""
        return self._set_paused(args.agent, True)

    @command(AgentArguments)
    async def resume(self, args: AgentArguments) -> dict[str, Any]:
        """Let a paused agent go on."""
        return self._set_paused(args.agent, False)

    def _set_paused(self, agent: str, paused: bool) -> dict[str, Any]:
        if agent not in self._hub.router.seats:
            known = ", ".join(self._hub.router.seats)
            raise CommandError(BAD_ARGUMENT, f"agent: no agent {agent!r}; there are: {known}")
        self._hub.router.pause(agent, paused)
        return {"agent": agent, "paused": paused}

    @command(KeyArguments, name="config")
    async def show_config(self, args: KeyArguments) -> dict[str, Any]:
        """Show one setting or all of them."""
        settings = self._hub.settings
        if args.key is None:
            return {"settings": settings.model_dump(mode="json")}
        key = _explained(resolve_key, args.key)
        return {"key": key, "value": get_value(settings, key)}

    @command(OneKeyArguments)
    async def config_saved(self, args: OneKeyArguments) -> dict[str, Any]:
        """What a setting would be after a restart, as the configuration file is now."""
        settings = _explained(self._hub.saved_settings)
        return {"value": get_value(settings, _explained(resolve_key, args.key))}

    @command(SetArguments)
    async def config_set(self, args: SetArguments) -> dict[str, Any]:
        """Change a setting, at once where it can be, and in the file."""
        key = _explained(resolve_key, args.key)
        before = get_value(self._hub.settings, key)
        _explained(self._hub.change_setting, key, args.value, args.save)
        value = get_value(self._hub.settings, key)
        return {
            "key": key,
            "value": value,
            "before": before,
            "restart": needs_restart(key),
        }

    @command()
    async def reload(self, args: NoArguments) -> dict[str, Any]:
        """Read the configuration file again; a faulty one is refused and changes nothing."""
        changes = _explained(self._hub.reload)
        return {"changed": {key: new for key, (_, new) in changes.items()}}


def _explained(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except ConfigError as error:
        faults = str(error).splitlines()
        code = BAD_ARGUMENT if condition_of(error) is None else UNAVAILABLE
        raise CommandError(code, "; ".join(faults), {"faults": faults}) from None
