"""How the models get into the host: pulled if need be, loaded, and put beside each other."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.to_thread

from agents.base import Agent
from agents.generator.steering import fusion_options
from agents.shared_engine import shared_engine
from bus.errors import FatalError
from sovl_daemon.heavy_imports import heavy_imports
from sovl_daemon.models import (
    ModelError,
    ModelStore,
    ProgressCallback,
    StageProgress,
    ignore_progress,
)

if TYPE_CHECKING:  # torch is loaded by what is below, so that the hub can import this module
    from pathlib import Path

    from sovl_daemon.engine.engine import Engine

_PULL_AGAIN_S = 300.0  # longest pause: each try fetches anew
REPORT_S = 0.5  # how often the progress of loading is told


async def load_base(agent: Agent) -> tuple[Engine, Path]:
    """Get the base (pulling it if need be) and load it; returns its folder too.

    Raises:
        FatalError: there is none, or it cannot be run here.

    """
    settings = agent.settings
    name = settings.core_config.base_model_name
    await agent.say(f"preparing {name}")
    try:
        folder = await _found(agent, name, _Reporter(agent).progress)
        await shared_engine.note("base", name, folder)
    except ModelError as error:
        raise FatalError(f"core_config.base_model_name: {error}; see: sovl model list") from None
    await agent.say(f"loading {name}")
    await anyio.to_thread.run_sync(_import_engine)  # seconds that must not silence us
    from sovl_daemon.engine.engine import Engine
    from sovl_daemon.engine.errors import EngineError, ModelLoadError

    # A dry run is light: it looks at no more than its `max_length` tokens.
    length, dry = settings.generation.context_length, settings.training_config
    try:
        engine = await Engine.load(
            folder,
            device=settings.host.device,
            threads=settings.host.threads,
            context_length=min(length, dry.dry_run_params.max_length) if dry.dry_run else length,
            max_concurrent=settings.generation.max_concurrent,
        )
    except ModelLoadError as error:
        raise FatalError(f"core_config.base_model_name: {error}") from None
    except EngineError as error:
        raise FatalError(str(error)) from None
    return engine, folder


async def place_scaffold(agent: Agent, engine: Engine) -> None:
    """Put the scaffold beside the base. Raises EngineError or ModelError."""
    await anyio.to_thread.run_sync(_import_fusion)  # seconds that must not silence us
    name = agent.settings.core_config.scaffold_model_name
    folder = await _found(agent, name)
    note = await engine.fuse(folder, fusion_options(agent.settings))
    await shared_engine.note("scaffold", name, folder)
    if note:
        agent.log.warning("scaffold.adapters", reason=note)


async def _found(agent: Agent, name: str, progress: ProgressCallback = ignore_progress) -> Path:
    """Where a model lies, pulled if need be. Raises ModelError."""
    store = ModelStore(agent.paths.model_dir)
    find = partial(anyio.to_thread.run_sync, partial(store.resolve, name, progress))
    return await agent.hindrance.outlast(find, longest_s=_PULL_AGAIN_S)


class _Reporter:
    """Passes the progress of a pull from its thread to people, not too often."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._last = 0.0

    def progress(self, step: StageProgress) -> None:
        """Take one report (called in the pulling thread)."""
        now = time.monotonic()
        if now - self._last < REPORT_S and step.done:
            return
        self._last = now
        anyio.from_thread.run(self._agent.say, f"{step.stage} {step.amount()}".rstrip())


def _import_engine() -> None:
    with heavy_imports():
        import sovl_daemon.engine.engine  # noqa: F401 - for its side effect of being loaded


def _import_fusion() -> None:
    with heavy_imports():
        import sovl_daemon.engine.fusion.fusion
        import sovl_daemon.engine.fusion.scaffold  # noqa: F401 - for the side effect of being loaded
