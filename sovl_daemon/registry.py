"""Which agents there are: found by entry point, so the daemon imports none by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol

from bus.commands import CommandSpec, CommandTable
from config import Paths, Settings

GROUP = "sovl.agents"
HUB = "hub"


class AgentProtocol(Protocol):
    """What the daemon needs of an agent; `agents.base.Agent` has it."""

    name: ClassVar[str]
    home: ClassVar[str]
    critical: ClassVar[bool]

    def __init__(self, settings: Settings, paths: Paths, process: str) -> None: ...

    @classmethod
    def commands(cls) -> list[CommandSpec]:
        """The commands that it offers."""
        ...

    async def serve(self) -> None:
        """Live until cancelled."""
        ...


class RegistryError(Exception):
    """An agent that is configured but cannot be used."""


def find_agents(settings: Settings) -> dict[str, type[AgentProtocol]]:
    """All enabled agents by name. Raises RegistryError."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    wanted = {*settings.agents.placement, *settings.agents.disabled}
    if unknown := sorted(wanted - points.keys()):
        known = ", ".join(sorted(points))
        raise RegistryError(f"agents: no agent {unknown[0]!r} is installed; there are: {known}")
    enabled = sorted(points.keys() - set(settings.agents.disabled))
    return {name: _load(name, points[name]) for name in enabled}


def _load(name: str, point: Any) -> type[AgentProtocol]:
    try:
        agent: type[AgentProtocol] = point.load()
    except Exception as error:  # a third party's module may fail in any way at all
        raise RegistryError(f"agents.{name}: cannot load {point.value}: {error}") from error
    if getattr(agent, "name", None) != name:
        raise RegistryError(
            f"agents.{name}: {point.value} calls itself {getattr(agent, 'name', None)!r}"
        )
    return agent


def command_table(agents: dict[str, type[AgentProtocol]]) -> CommandTable:
    """The commands that the agents offer. Raises RegistryError when two offer the same."""
    try:
        return CommandTable(spec for agent in agents.values() for spec in agent.commands())
    except ValueError as error:
        raise RegistryError(f"agents: {error}; disable one with agents.disabled") from None


@dataclass(frozen=True)
class Group:
    """Agents that live and die together: those of one worker process, or one inside the hub."""

    process: str
    agents: tuple[str, ...]
    critical: bool

    @property
    def title(self) -> str:
        """The name of the process, or of the agent inside the hub."""
        return self.agents[0] if self.process == HUB else self.process


def groups(settings: Settings, agents: dict[str, type[AgentProtocol]]) -> list[Group]:
    """The agents in start order: what the daemon needs first, inside the hub first.

    What starts later restarts with what started before it, so an agent that the daemon can do
    without must not stand before one that it needs.
    """
    members: dict[tuple[str, str], list[str]] = {}
    for name in sorted(agents):
        process = settings.agents.placement.get(name, agents[name].home)
        members.setdefault((process, name if process == HUB else ""), []).append(name)
    found = [
        Group(process, tuple(names), any(agents[name].critical for name in names))
        for (process, _), names in members.items()
    ]
    return sorted(found, key=lambda group: (not group.critical, group.process != HUB, group.title))
