"""What the agents of one model host share: the engine, which the generator loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anyio
import anyio.to_thread

from sovl_daemon.models.identity import identity

if TYPE_CHECKING:  # torch is loaded by the generator
    from pathlib import Path

    from sovl_daemon.engine.engine import Engine


class SharedEngine:
    """Hands out one process's engine as soon as it is ready, while the generator lives.

    `names` are what its models are called, by their roles, and `digests` say what they are, by such
    keys as `base.weights`.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.digests: dict[str, str] = {}
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

    def set_loaded(self, engine: Engine) -> None:
        """Let the others have it, whether or not a scaffold will stand beside the base."""
        self._engine = engine
        self._loaded.set()

    def set_fused(self) -> None:
        """Note that a scaffold stands beside the base now."""
        self._fused.set()

    def withdraw(self) -> None:
        """Take it away again: who asks from now on waits for the next one."""
        self._engine = None
        self.names, self.digests = {}, {}
        if self._loaded.is_set():
            self._loaded = anyio.Event()
        if self._fused.is_set():
            self._fused = anyio.Event()

    def stalled_for(self) -> float:
        """Return how many seconds its current step has been running, 0.0 when there is none."""
        return 0.0 if self._engine is None else self._engine.stalled_for()

    async def loaded(self) -> Engine:
        """Wait until there is an engine, and return it."""
        while self._engine is None:
            await self._loaded.wait()
        return self._engine

    async def fused(self) -> Engine:
        """Wait until there is an engine with a scaffold, and return it."""
        while self._engine is None or not self._fused.is_set():
            await self._fused.wait()
        return self._engine


shared_engine = SharedEngine()
"""This process's."""
