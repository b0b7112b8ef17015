"""What the agents of one model host share: the engine, which the generator loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:  # torch is loaded by the generator
    from sovl_daemon.engine.engine import Engine


class Device:
    """Holds one process's engine while the generator lives."""

    def __init__(self) -> None:
        self._base: Engine | None = None
        self._engine: Engine | None = None
        self._loaded, self._fused = anyio.Event(), anyio.Event()

    def lend(self, engine: Engine) -> None:
        """Let the others have the base, whether or not a scaffold will stand beside it."""
        self._base = engine
        self._loaded.set()

    def share(self, engine: Engine) -> None:
        """Let the others have it, base and scaffold together."""
        self._engine = engine
        self._fused.set()

    def withdraw(self) -> None:
        """Take it away again."""
        self._base = self._engine = None
        self._loaded, self._fused = anyio.Event(), anyio.Event()

    async def base(self) -> Engine:
        """Wait until there is an engine, and return it."""
        while self._base is None:
            await self._loaded.wait()
        return self._base

    async def engine(self) -> Engine:
        """Wait until there is an engine with a scaffold, and return it."""
        while self._engine is None:
            await self._fused.wait()
        return self._engine


device = Device()
"""This process's."""
