"""A pair as a daemon has it that has learned nothing yet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agents.generator.steering import fusion_options
from benchmarks.default_model import default_model
from config import Settings
from sovl_daemon.engine.engine import Engine

THREADS = 2


@asynccontextmanager
async def born(settings: Settings) -> AsyncIterator[Engine]:
    """The default model beside itself, as a daemon has it that has learned nothing yet."""
    engine = await Engine.load(
        default_model(),
        device="cpu",
        threads=THREADS,
        context_length=settings.generation.context_length,
        max_concurrent=settings.generation.max_concurrent,
    )
    try:
        await engine.fuse(default_model(), fusion_options(settings))
        yield engine
    finally:
        await engine.close()
