"""The shipped probe on the real default model: it ranks moments as anybody would."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sovl_daemon.control.metric import Reading
from sovl_daemon.control.prompt import render
from sovl_daemon.control.task_file import load_tasks
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.judging.judging import PromptParts
from sovl_daemon.judge.shelf import find_probe
from sovl_daemon.judge.typical import typical_key

pytestmark = pytest.mark.model

CALM = {
    "memory.percent": (80.0, 0.0),
    "pressure.memory": (0.0, 0.0),
    "swap.percent": (10.0, 0.0),
    "kv_cache.bytes": (2e8, 0.0),
    "stability.score": (0.97, 0.0),
    "errors.rate": (0.0, 0.0),
}


@pytest.fixture
async def engine(default_model: Path, tmp_path: Path) -> AsyncIterator[Engine]:
    loaded = await Engine.load(default_model, device="cpu", threads=1)
    probe = find_probe(tmp_path, default_model)
    assert probe is not None
    assert len(probe.card.identity) == 64
    await loaded.use_probe(probe)
    yield loaded
    await loaded.close()


async def p_true(engine: Engine, *lines: str, **metrics: tuple[float, float]) -> float:
    task = load_tasks()["memory"]
    wanted = CALM | {name.replace("__", "."): value for name, value in metrics.items()}
    readings = {name: Reading(name, value, 0.0, rate) for name, (value, rate) in wanted.items()}
    pieces = PromptParts(**render(task, readings, lines).pieces())
    found = await engine.judge(pieces, task=typical_key(task))
    assert found.by == "probe"
    return found.p_true


@pytest.mark.parametrize("precision", ["fp16", "int8"])
async def test_the_shipped_probe_ranks_as_anybody_would(engine: Engine, precision: str) -> None:
    if precision != "fp16":
        await engine.set_precision("int8")
    calm = await p_true(engine)
    soon = await p_true(engine, memory__percent=(88.0, 9.0), pressure__memory=(1.0, 2.0))
    falling = await p_true(engine, memory__percent=(88.0, -9.0))
    told = await p_true(engine, "batch job import started, expects 9.5 GB")
    idle = await p_true(engine, "heartbeat of all agents within 40 ms")
    assert soon > calm
    assert soon > falling
    assert told > idle
