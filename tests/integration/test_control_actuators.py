"""Actuators on a real model: what they predict is what the kernel sees, and all comes back."""

import gc
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from agents.actuator import Means
from agents.control.actuators import actuators
from bus.commands import Done
from sovl_daemon.contracts.generator import EngineUsage, ReadUsage
from sovl_daemon.contracts.hub import ConfigSaved, SavedSetting, SettingsChanged
from sovl_daemon.contracts.judge import AskJudge, TimedProbabilities
from sovl_daemon.control.executor import Executor
from sovl_daemon.control.journal import Journal
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.judging.judging import PromptParts
from sovl_daemon.engine.model.allocator import return_free_memory, returnable_bytes
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message

pytestmark = pytest.mark.model
MB = 1 << 20
LONG = "Tell me about the sea. " * 120
GREEDY = SamplingOptions(temperature=0, max_new_tokens=4)


class Host:
    """The engine behind its commands, in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def ask(self, request: Any) -> Any:
        match request:
            case ReadUsage():
                usage = asdict(self.engine.usage())
                free = returnable_bytes()
                return EngineUsage(**usage, pid=os.getpid(), free=free, card_bytes=0)
            case AskJudge():
                found = await self.engine.judge(PromptParts(request.prefix, request.text))
                return TimedProbabilities(**found._asdict(), seconds=0.0)
        if request.prefixes:
            await self.engine.drop_prefixes()
        gc.collect()
        return_free_memory()
        return Done()

    async def control(self, request: Any) -> Any:
        if isinstance(request, ConfigSaved):
            return SavedSetting(value="as it was")
        key, value = request.key, request.value
        if key == "core_config.quantization":
            plain = self.engine.model.plain
            await self.engine.set_precision(plain if value == "fp16" else value)
        elif key == "host.offload_weights":
            await self.engine.offload(value == "true")
        else:
            await self.engine.resize_prefix_cache(int(value) * MB)
        return SettingsChanged(late=[], refused={})


@pytest.fixture
async def host(default_model: Path) -> AsyncIterator[Host]:
    engine = await Engine.load(default_model, device="cpu", context_length=2048)
    await engine.resize_prefix_cache(64 * MB)
    made = Host(engine)
    return_free_memory()
    yield made
    await engine.close()


async def answer(host: Host, prompt: str) -> str:
    pieces = host.engine.generate([Message("user", prompt)], GREEDY)
    return "".join([piece.text async for piece in pieces])


@pytest.mark.long  # by itself: it measures this process's memory, which other tests disturb
async def test_each_frees_what_it_predicts_and_goes_back(host: Host, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "actions.db")
    means = Means(host.ask, host.control, lambda: 60.0)
    executor = Executor(journal, actuators(means))
    before = await answer(host, "The capital of France?")
    for name in ("shrink_context", "clear_caches", "quantize_int8", "offload_weights"):
        await answer(host, f"{name}: {LONG}")
        outcome = await executor.execute(name, "memory", "a test")
        (entry, *_) = await executor.history(1)
        assert outcome.result == "committed", outcome
        assert outcome.freed >= 0.75 * entry.predicted
        if entry.lasts:
            assert (await executor.take_back(outcome.id, "a test")).result == "reverted"
    usage = host.engine.usage()
    assert (usage.precision, usage.max_prefix_bytes) == ("fp16", 64 * MB)
    assert not usage.offloaded
    await host.engine.drop_prefixes()
    assert await answer(host, "The capital of France?") == before
    journal.close()
