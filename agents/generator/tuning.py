"""What holds an engine to what is configured while it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.generator.steering import steering_of
from bus.topics import MindState
from config import Settings

if TYPE_CHECKING:  # torch is loaded when an agent starts, so that the hub can import this module
    from structlog.stdlib import BoundLogger

    from sovl_daemon.engine.engine import Engine

MB = 2**20
_TOKEN_MAP_STRENGTH = 1.0


class Tuning:
    """Holds an engine to the settings it is given, and to the mind as it was last followed."""

    def __init__(self, engine: Engine, log: BoundLogger) -> None:
        self.mind: MindState | None = None
        self._engine = engine
        self.log = log

    async def hold(self, settings: Settings) -> str:
        """Hold the engine to `settings` as far as it can; the rest is logged and returned."""
        from sovl_daemon.engine.errors import EngineError

        refused = []
        for part in (
            self._hold_bounds,
            self._hold_place,  # first, lest weights that are not to be held are quantised
            self._hold_precision,
            self.steer,
        ):
            try:
                await part(settings)
            except EngineError as error:
                refused.append(str(error))
                self.log.error("tuning.refused", reason=str(error))
        return "; ".join(refused)

    async def attempt(self, settings: Settings) -> None:
        """Hold precision and steering to `settings` that are not in force yet.

        Raises EngineError; then `hold` brings back what was.
        """
        await self._hold_precision(settings)
        await self.steer(settings)

    async def steer(self, settings: Settings) -> None:
        """Steer as configured, where there is a scaffold. Raises EngineError."""
        if self._engine.fusion is not None:
            wanted = steering_of(settings, self.mind, self._engine.model.layers)
            if wanted != self._engine.fusion.steering:
                await self._engine.steer(wanted)

    async def follow(self, mind: MindState, settings: Settings) -> None:
        """Steer by the mind's age and mood; what the engine refuses is logged."""
        from sovl_daemon.engine.errors import EngineError

        self.mind = mind
        try:
            await self.steer(settings)
        except EngineError as error:
            self.log.error("tuning.refused", reason=str(error))

    async def reinforce(self, prompt: Sequence[int], confidence: float, settings: Settings) -> None:
        """Let the token map learn from how an answer to the token ids `prompt` went."""
        controls = settings.controls_config
        if controls.use_token_map_memory:
            await self._engine.reinforce(
                prompt, confidence, strength=_TOKEN_MAP_STRENGTH, decay=controls.memory_decay_rate
            )

    async def _hold_bounds(self, settings: Settings) -> None:
        usage = self._engine.usage()
        max_bytes = settings.generation.prefix_cache_mb * MB
        if max_bytes != usage.max_prefix_bytes:
            await self._engine.resize_prefix_cache(max_bytes)
        await self._engine.admit(settings.generation.max_concurrent)
        if settings.host.cores != usage.cores:
            await self._engine.keep_to_cores(settings.host.cores)

    async def _hold_place(self, settings: Settings) -> None:
        wanted = settings.host.offload_weights
        if wanted != self._engine.usage().offloaded:
            began = time.monotonic()
            await self._engine.offload(wanted)
            seconds = round(time.monotonic() - began, 3)
            self.log.info("weights.placed", offloaded=wanted, seconds=seconds)

    async def _hold_precision(self, settings: Settings) -> None:
        wanted = settings.core_config.quantization
        # "fp16" stands for not quantised: some CPUs compute in 32 bits.
        precision = self._engine.model.plain if wanted == "fp16" else wanted
        if precision != self._engine.precision:
            began = time.monotonic()
            await self._engine.set_precision(precision)
            seconds = round(time.monotonic() - began, 3)
            self.log.info("precision.switched", precision=precision, seconds=seconds)
