import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.errors import (
    EngineStoppedError,
    ModelLoadError,
    NonFiniteLogitsError,
    OptionError,
    PromptTooLongError,
)
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.serving.answer_stream import (
    AnswerChunk,
    AnswerRequest,
    AnswerStream,
    Summary,
)
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.scheduler import ScheduledSequence
from sovl_daemon.engine.serving.token_sequence import TokenSequence
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.thread.inbox import call
from sovl_daemon.engine.thread.tensor_thread import Priority
from sovl_daemon.testing import PATIENCE_S
from tests.unit.engine_tiny import generated, save_tiny, tokens

HELLO = [Message("user", "What is the capital of France?")]
GREEDY = SamplingOptions(temperature=0, max_new_tokens=12)
LONG = SamplingOptions(temperature=1, seed=1, max_new_tokens=100)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    loaded = await load(save_tiny(tmp_path))
    # Endless, so that length alone ends an answer.
    loaded.tokenizer.stop_ids = frozenset()
    yield loaded
    await loaded.close()


async def load(path: Path, context_length: int = 4096) -> Engine:
    return await Engine.load(
        path, device="cpu", dtype="float32", context_length=context_length, max_concurrent=2
    )


async def answer(
    engine: Engine, options: SamplingOptions = GREEDY
) -> tuple[str, list[AnswerChunk]]:
    pieces = [piece async for piece in engine.generate(HELLO, options)]
    return "".join(piece.text for piece in pieces), pieces


class Watched:
    """The model, with a record of who took part in each step, and a step that waits when told."""

    stamp = 0

    def __init__(self, engine: Engine) -> None:
        self.turns: list[list[int]] = []
        self.pause_after = 10**6
        self.resumed = threading.Event()
        self._model = engine.model
        self._caches: list[Any] = []
        engine._scheduler.model = self
        engine._caches._model = self

    def new_cache(self) -> Any:
        self._caches.append(self._model.new_cache())
        return self._caches[-1]

    def listen(self, prompt: Sequence[int], cache: Any, *, since: int) -> None:
        self._model.listen(prompt, cache, since=since)

    def forward(self, spans: Sequence[Span]) -> Any:
        self.turns.append([self._caches.index(span.cache) for span in spans])
        if len(self.turns) > self.pause_after:
            assert self.resumed.wait(PATIENCE_S)
        return self._model.forward(spans)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.005)


def waiting(engine: Engine, count: int, priority: Priority = Priority.CONVERSATION) -> Any:
    """Whether so many conversations have not begun yet."""
    return lambda: len(engine._scheduler._lanes[priority]._waiting) == count


def answers(engine: Engine) -> list[ScheduledSequence]:
    """Those that are not over."""
    lanes = engine._scheduler._lanes.values()
    return [each for lane in lanes for each in (*lane._running.values(), *lane._waiting)]


def idle(engine: Engine) -> Callable[[], bool]:
    """Whether no answer and no job is left, and no step is running."""
    queue = engine.thread._queue
    return lambda: (
        not answers(engine)
        and not any(queue._lanes.values())
        and not queue._cancelled
        and engine.stalled_for() == 0
    )


async def test_an_answer_is_what_the_model_says(engine: Engine) -> None:
    text, pieces = await answer(engine)
    chat = engine.tokenizer
    prompt = chat.encode(HELLO, 1000)
    expected = generated(engine.model.network, prompt, 12, eos_token_id=None)
    assert text == chat.decode(expected)
    assert [piece.summary for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert sum(piece.tokens for piece in pieces) == 12


async def test_the_summary_has_the_figures(engine: Engine) -> None:
    _, pieces = await answer(engine)
    summary = pieces[-1].summary
    assert summary is not None
    assert (summary.finish_reason, summary.generated_tokens) == ("length", 12)
    assert summary.prompt_tokens == len(engine.tokenizer.encode(HELLO, 1000))
    assert summary.seconds_to_first_token is not None
    assert summary.seconds_to_first_token > 0
    assert summary.tokens_per_second > 0
    assert len(summary.probabilities) == 12
    assert all(0 < each <= 1 for each in summary.probabilities)


async def test_a_stop_token_is_not_part_of_the_answer(engine: Engine) -> None:
    text, _ = await answer(engine)
    decoding = (await engine.generate(HELLO, GREEDY)._prepare()).sequence
    ids = [token.id for token in tokens(engine.model, decoding)]
    engine.tokenizer.stop_ids = frozenset({ids[5]})
    stopped, pieces = await answer(engine)
    summary = pieces[-1].summary
    assert summary is not None
    first = ids.index(ids[5])
    assert (summary.finish_reason, summary.generated_tokens) == ("stop", first)
    assert stopped == engine.tokenizer.decode(ids[:first])
    assert text.startswith(stopped)
    assert sum(piece.tokens for piece in pieces) == first


async def test_conversations_side_by_side_answer_as_if_alone(engine: Engine) -> None:
    options = [SamplingOptions(temperature=2, seed=s, max_new_tokens=30) for s in range(4)]
    alone = [(await answer(engine, option))[0] for option in options]
    beside = await asyncio.gather(*(answer(engine, option) for option in options))
    assert [text for text, _ in beside] == alone
    assert len(set(alone)) == 4


@pytest.fixture
def paused(engine: Engine) -> Watched:
    """A model that waits in its sixth step."""
    watched = Watched(engine)
    watched.pause_after = 5
    return watched


async def test_conversations_advance_together_and_the_surplus_waits(engine: Engine) -> None:
    watched, gate = Watched(engine), threading.Event()
    holder = await held(engine, gate)
    talks = [asyncio.create_task(answer(engine)) for _ in range(3)]
    await until(waiting(engine, 3))
    gate.set()
    await asyncio.gather(holder, *talks)
    # A prompt a step, and two at a time: the third comes when the first is done.
    assert watched.turns == [[0]] + [[0, 1]] * 11 + [[1, 2]] + [[2]] * 11


async def test_a_judge_overtakes_a_conversation(engine: Engine, paused: Watched) -> None:
    talk = asyncio.create_task(answer(engine))
    await until(lambda: len(paused.turns) == 6)
    judge = engine.generate(HELLO, GREEDY, priority=Priority.JUDGE)
    judging = asyncio.create_task(anext(judge))
    await until(waiting(engine, 1, Priority.JUDGE))
    paused.resumed.set()
    await judging
    assert [piece async for piece in judge][-1].summary is not None
    await talk
    assert paused.turns == [[0]] * 6 + [[1]] * 12 + [[0]] * 6


async def decoding_of(generation: AnswerStream) -> TokenSequence:
    """What it will decode with, before it begins."""
    request = await generation._prepare()

    async def prepared() -> AnswerRequest:
        return request

    generation._prepare = prepared
    return request.sequence


async def test_cancelling_the_consumer_frees_the_cache(engine: Engine, paused: Watched) -> None:
    generation = engine.generate(HELLO, LONG)
    decoding = await decoding_of(generation)

    async def consume() -> None:
        async for _ in generation:
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await until(lambda: len(paused.turns) == 6)
        group.cancel_scope.cancel()
    paused.resumed.set()
    await until(idle(engine))
    assert len(paused.turns) == 6
    assert (decoding._cache, decoding.finish_reason) == (None, "cancelled")


async def test_a_timeout_before_the_first_turn_runs_nothing(engine: Engine) -> None:
    watched, gate = Watched(engine), threading.Event()
    holder = await held(engine, gate)
    with anyio.move_on_after(0.05) as scope:
        await answer(engine)
    assert scope.cancelled_caught
    gate.set()
    await holder
    await until(idle(engine))
    assert watched.turns == []


async def held(engine: Engine, gate: threading.Event) -> asyncio.Task[bool]:
    """Keep the tensor thread in one step until the gate opens; return when it is in there."""
    entered = threading.Event()

    def step() -> bool:
        entered.set()
        return gate.wait(PATIENCE_S)

    holder = asyncio.create_task(call(engine.thread, step, Priority.JUDGE))
    await until(entered.is_set)
    return holder


async def test_leaving_the_loop_ends_the_job(engine: Engine, paused: Watched) -> None:
    async for _ in engine.generate(HELLO, LONG):
        break
    gc.collect()
    await until(lambda: all(a.cancelled for a in answers(engine)))
    paused.resumed.set()
    await until(idle(engine))
    assert len(paused.turns) <= 6


async def test_cancel_ends_with_a_summary(engine: Engine, paused: Watched) -> None:
    async with aclosing(engine.generate(HELLO, LONG)) as generation:
        pieces = [await anext(generation)]
        generation.cancel()
        paused.resumed.set()
        pieces += [piece async for piece in generation]
    summary = pieces[-1].summary
    assert summary is not None
    assert summary.finish_reason == "cancelled"
    assert sum(piece.tokens for piece in pieces) == summary.generated_tokens <= 6


async def test_cancel_before_the_start_runs_nothing(engine: Engine) -> None:
    generation = engine.generate(HELLO, LONG)
    generation.cancel()
    (last,) = [piece async for piece in generation]
    assert last.summary is not None
    assert (last.summary.finish_reason, last.summary.generated_tokens) == ("cancelled", 0)
    assert last.summary.probabilities == ()


async def test_the_event_loop_stays_free_during_a_long_step(engine: Engine) -> None:
    gate = threading.Event()
    holder = await held(engine, gate)
    # Were the loop blocked by the step, this could not be seen before the gate gives up.
    await until(lambda: engine.stalled_for() > 0.1)
    assert not holder.done()
    gate.set()
    await holder


async def test_the_thread_does_not_wait_for_a_slow_consumer(engine: Engine) -> None:
    generation = engine.generate(HELLO, LONG)
    decoding = await decoding_of(generation)
    await anext(generation)
    await until(idle(engine))
    assert decoding.finish_reason == "length"
    assert (await answer(engine))[1][-1].summary is not None
    await generation.aclose()


async def test_a_damaged_model_is_an_error_for_the_consumer(engine: Engine) -> None:
    weight = engine.model.network.lm_head.weight
    kept = weight.clone()
    weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLogitsError):
        await answer(engine)
    weight.copy_(kept)
    assert (await answer(engine))[0]


async def summary_of(engine: Engine, messages: list[Message]) -> tuple[str, Summary]:
    pieces = [piece async for piece in engine.generate(messages, GREEDY)]
    summary = pieces[-1].summary
    assert summary is not None
    return "".join(piece.text for piece in pieces), summary


async def test_the_next_turn_reads_only_what_is_new(engine: Engine) -> None:
    question = [Message("user", "What is the fox?")]
    followed = [*question, Message("assistant", "The fox"), Message("user", "Why?")]
    texts, cached = [], []
    for max_bytes in (0, 2**20, 0):
        await engine.resize_prefix_cache(max_bytes)
        texts.append([(await summary_of(engine, each))[0] for each in (question, followed)])
        cached.append((await summary_of(engine, followed))[1].cached_tokens)
    assert texts[0] == texts[1] == texts[2]
    assert cached == [0, len(engine.tokenizer.encode(followed, 1000)) - 1, 0]
    assert engine._caches.nbytes == 0


async def test_a_cancelled_answer_is_of_use_to_the_next(engine: Engine) -> None:
    await engine.resize_prefix_cache(2**20)
    generation = engine.generate(HELLO, LONG)
    await anext(generation)
    await generation.aclose()
    await until(idle(engine))
    _, summary = await summary_of(engine, HELLO)
    assert summary.cached_tokens == summary.prompt_tokens - 1


async def test_close_while_busy(engine: Engine, paused: Watched) -> None:
    generation = engine.generate(HELLO, LONG)
    await anext(generation)
    closing = asyncio.create_task(engine.close())
    await until(lambda: engine.thread._stopping)
    paused.resumed.set()
    await closing
    with pytest.raises(EngineStoppedError):
        async for _ in generation:
            pass
    with pytest.raises(EngineStoppedError):
        await answer(engine)
    await engine.close()


async def test_a_prompt_must_leave_room_for_the_answer(engine: Engine) -> None:
    long = [Message("user", "x" * 200)]
    with pytest.raises(PromptTooLongError) as caught:
        await anext(engine.generate(long, SamplingOptions(max_new_tokens=1000)))
    assert caught.value.limit == 96
    with pytest.raises(PromptTooLongError) as caught:
        await anext(engine.generate(long, SamplingOptions(max_new_tokens=8)))
    assert caught.value.limit == 120


async def test_info(engine: Engine) -> None:
    assert engine.info() == {
        "parameters": engine.model.parameters,
        "layers": 2,
        "dtype": "float32",
        "dtype_reason": "as configured",
        "precision": "fp32",
        "device": "cpu",
        "context_length": 128,
        "chat": "as its template has it",
    }


async def test_a_base_model_writes_a_dialogue(tmp_path: Path) -> None:
    engine = await load(save_tiny(tmp_path, "gpt2", template=None), context_length=100)
    try:
        text, pieces = await answer(engine)
    finally:
        await engine.close()
    assert engine.context_length == 100
    assert text
    assert pieces[-1].summary is not None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"context_length": 3}, OptionError),
        ({"max_concurrent": 0}, OptionError),
        ({"threads": -1}, OptionError),
        ({"dtype": "int3"}, OptionError),
    ],
)
async def test_options_out_of_range(
    tmp_path: Path, options: dict[str, int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await Engine.load(save_tiny(tmp_path), **options)  # type: ignore[arg-type]


async def test_a_failed_load_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        await load(tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name == "tensors"]
