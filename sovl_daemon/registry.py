"""Which agents there are: found by entry point, so the daemon imports none by name."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol

from bus.commands import CommandSpec
from config import Paths, Settings

GROUP = "sovl.agents"
HUB = "hub"


class Agent(Protocol):
    """What the daemon needs of an agent; `agents.base.Agent` has it."""

    name: ClassVar[str]
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


def find_agents(settings: Settings) -> dict[str, type[Agent]]:
    """All enabled agents by name, shipped ones first, in start order. Raises RegistryError."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    wanted = {*settings.agents.placement, *settings.agents.disabled}
    if unknown := sorted(wanted - points.keys()):
        known = ", ".join(sorted(points))
        raise RegistryError(f"agents: no agent {unknown[0]!r} is installed; there are: {known}")
    return {
        name: _load(name, points[name])
        for name in sorted(points, key=_start_order)
        if name not in settings.agents.disabled
    }


def _start_order(name: str) -> tuple[int, str]:
    """What others lean on starts first: the supervisor restarts what was started after it."""
    shipped = ("scribe", "health", "generator")
    return (shipped.index(name), "") if name in shipped else (len(shipped), name)


def _load(name: str, point: Any) -> type[Agent]:
    try:
        agent: type[Agent] = point.load()
    except Exception as error:  # a third party's module may fail in any way at all
        raise RegistryError(f"agents.{name}: cannot load {point.value}: {error}") from error
    if getattr(agent, "name", None) != name:
        raise RegistryError(
            f"agents.{name}: {point.value} calls itself {getattr(agent, 'name', None)!r}"
        )
    return agent


def processes(settings: Settings, agents: dict[str, type[Agent]]) -> dict[str, list[str]]:
    """Which agents run in which process, in start order. `hub` is this one."""
    placed: dict[str, list[str]] = {}
    for name in agents:
        placed.setdefault(settings.agents.placement.get(name, HUB), []).append(name)
    return placed
