"""Priorities are strict: while somebody talks, training waits."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import anyio
import pytest
import torch

from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.scheduler import Scheduler
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.thread.inbox import Inbox
from sovl_daemon.engine.thread.tensor_thread import Priority
from sovl_daemon.testing import PATIENCE_S
from tests.unit.engine_tiny import save_tiny

HELLO = [Message("user", "What is the capital of France?")]
OPTIONS = SamplingOptions(temperature=1, seed=1, max_new_tokens=40)


class Night:
    """Training without an end, and the order in which the tensor thread did what.

    `during` are called inside a training step, by its number.
    """

    def __init__(self, engine: Engine) -> None:
        self.order: list[str] = []
        self.during: dict[int, Callable[[], None]] = {}
        self._watch(engine._scheduler)
        engine.thread.submit(self._endless(), Inbox[None](), Priority.TRAINING)

    @property
    def steps(self) -> int:
        return self.order.count("train")

    async def more(self, steps: int = 3) -> None:
        """Wait until so many more steps are done."""
        until = self.steps + steps
        with anyio.fail_after(PATIENCE_S):
            while self.steps < until:
                await anyio.sleep(0.001)

    def _endless(self) -> Iterator[None]:
        for step in itertools.count():
            self.order.append("train")
            self.during.pop(step, lambda: None)()
            time.sleep(0.001)
            yield None

    def _watch(self, answering: Scheduler) -> None:
        model = answering.model

        class Watched:
            stamp = model.stamp
            new_cache, listen = model.new_cache, model.listen

            @staticmethod
            def forward(spans: Sequence[Span]) -> torch.Tensor:
                self.order.append("read" if len(spans[0].ids) > 1 else "token")
                return model.forward(spans)

        answering.model = Watched()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    loaded = await Engine.load(save_tiny(tmp_path), device="cpu", dtype="float32")
    loaded.tokenizer.stop_ids = frozenset()
    yield loaded
    await loaded.close()


def between(order: list[str], first: str, last: str) -> list[str]:
    """From the first of one kind to the last of another."""
    return order[order.index(first) : len(order) - order[::-1].index(last)]


async def test_no_training_step_runs_between_two_tokens(engine: Engine) -> None:
    night = Night(engine)
    for _ in range(3):
        await night.more()
        night.order.clear()
        await night.more()
        generation = engine.generate(HELLO, OPTIONS)
        with anyio.fail_after(PATIENCE_S):
            pieces = [piece async for piece in generation]
        assert pieces[-1].summary is not None
        assert pieces[-1].summary.generated_tokens == 40
        await night.more()
        # The prompt and its answer, in one go; training before it and after it.
        answered = between(night.order, "read", "token")
        assert set(answered) == {"read", "token"}
        assert answered.count("token") == 39
        assert night.order[0] == night.order[-1] == "train"


async def test_two_conversations_keep_training_waiting_until_both_are_done(engine: Engine) -> None:
    night = Night(engine)
    await night.more()

    async def talk(tokens: int) -> None:
        options = SamplingOptions(temperature=1, seed=1, max_new_tokens=tokens)
        async for _ in engine.generate(HELLO, options):
            pass

    with anyio.fail_after(PATIENCE_S):
        await asyncio.gather(*map(talk, (40, 10)))
    await night.more()
    answered = between(night.order, "read", "token")
    assert "train" not in answered
    # Ten at most were written together.
    assert 39 <= answered.count("token") <= 39 + 9


async def test_a_verdict_comes_next_after_the_step_that_is_running(engine: Engine) -> None:
    night, verdict = Night(engine), Inbox[str]()

    def judge() -> Iterator[str]:
        night.order.append("judge")
        yield "true"

    await night.more()
    at = night.steps + 50
    night.during[at] = lambda: engine.thread.submit(judge(), verdict, Priority.JUDGE) and None
    generation = engine.generate(HELLO, OPTIONS)
    with anyio.fail_after(PATIENCE_S):
        _ = [piece async for piece in generation]
        assert [value async for value in verdict] == ["true"]
    await night.more()
    where = night.order.index("judge")
    assert night.order[where - 1 : where + 2] == ["train", "judge", "train"]
    assert night.order[:where].count("train") == at + 1


async def test_a_verdict_comes_before_the_next_token(engine: Engine) -> None:
    night, verdict = Night(engine), Inbox[str]()

    def judge() -> Iterator[str]:
        night.order.append("judge")
        yield "true"

    forward = engine._scheduler.model.forward

    def judged(spans: Sequence[Span]) -> torch.Tensor:
        if night.order.count("token") == 20 and "asked" not in night.order:
            night.order.append("asked")
            engine.thread.submit(judge(), verdict, Priority.JUDGE)
        return forward(spans)

    engine._scheduler.model.forward = judged  # type: ignore[method-assign]
    with anyio.fail_after(PATIENCE_S):
        _ = [piece async for piece in engine.generate(HELLO, OPTIONS)]
    where = night.order.index("asked")
    assert night.order[where : where + 4] == ["asked", "token", "judge", "token"]
