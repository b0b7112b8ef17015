"""What the agents of one model host share: the engine, which the generator loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anyio
import anyio.to_thread

from sovl_daemon.models.identity import identity

if TYPE_CHECKING:  # torch is loaded by the generator
    from pathlib import Path

    from sovl_daemon.engine.engine import Engine


class Device:
    """Holds one process's engine while the generator lives.

    `names` are what its models are called, by their roles, and `digests` say what they are, by such
    keys as `base.weights`.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self._base: Engine | None = None
        self._engine: Engine | None = None
        self._loaded, self._fused = anyio.Event(), anyio.Event()

    async def note(self, role: Literal["base", "scaffold"], name: str, folder: Path) -> None:
        """Note what the model is that was loaded from a folder.

        Raises:
            ConversionError: its files are not there any more.

        """
        found = await anyio.to_thread.run_sync(identity, folder)
        self.names[role] = name
        self.digests[f"{role}.weights"] = found.weights
        self.digests[f"{role}.vocabulary"] = found.vocabulary

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
        self.names, self.digests = {}, {}
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
