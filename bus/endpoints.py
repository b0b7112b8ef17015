"""Where the sockets of one daemon are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Endpoints:
    """Addresses. The first three are for clients, the last two for agents alone."""

    control: str
    commands: str
    events: str
    publish: str = ""
    agents: str = ""

    @classmethod
    def local(cls, runtime_dir: Path) -> Endpoints:
        """Unix sockets inside the runtime directory."""
        names = ("control", "commands", "events", "publish", "agents")
        return cls(*(f"ipc://{runtime_dir / name}.ipc" for name in names))

    @classmethod
    def tcp(cls, address: str) -> Endpoints:
        """Three consecutive ports from `tcp://HOST:PORT`: control, commands, events."""
        host, port = address.rsplit(":", 1)
        return cls(*(f"{host}:{int(port) + offset}" for offset in range(3)))
