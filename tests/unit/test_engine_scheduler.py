import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from sovl_daemon.engine.errors import EngineStoppedError, JobCancelledError
from sovl_daemon.engine.model.kv_cache import Cache, Span
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.scheduler import ScheduledSequence, Scheduler
from sovl_daemon.engine.serving.token_sequence import Token, TokenSequence
from sovl_daemon.engine.thread.tensor_thread import Priority, TensorThread
from sovl_daemon.testing import PATIENCE_S
from tests.unit.engine_tiny import generated, tiny_model

PROMPTS = [[index, 7, 8] for index in range(1, 7)]


class Log:
    """A listener that keeps what it hears, and may do something when it has heard a token."""

    def __init__(self, after: int = 0, then: Callable[[], None] | None = None) -> None:
        self.tokens: list[Token] = []
        self.errors: list[BaseException | None] = []
        self._ended = threading.Event()
        self._after, self._then = after, then

    def result(self, value: Token) -> None:
        self.tokens.append(value)
        if self._then is not None and len(self.tokens) == self._after:
            self._then()

    def end(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self._ended.set()

    def wait(self) -> BaseException | None:
        assert self._ended.wait(PATIENCE_S)
        (error,) = self.errors
        return error

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


class Model:
    """A tiny model that counts who takes part in each step, and waits before the first."""

    stamp = 0

    def __init__(self) -> None:
        self.whole = tiny_model()
        self.sizes: list[int] = []
        self.opened = threading.Event()

    def new_cache(self) -> Cache:
        return self.whole.new_cache()

    def listen(self, prompt: Sequence[int], cache: Any, *, since: int) -> None:
        pass

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        assert self.opened.wait(PATIENCE_S)
        self.sizes.append(len(spans))
        return self.whole.forward(spans)


class Desk:
    def __init__(self, max_concurrent: int = 8) -> None:
        self.model, self.thread = Model(), TensorThread()
        self.caches = PrefixCache(self.model)
        self.answering = Scheduler(self.model, self.caches, self.thread, max_concurrent)

    def start(
        self, log: Log, index: int = 0, priority: Priority = Priority.CONVERSATION, count: int = 24
    ) -> ScheduledSequence:
        options = SamplingOptions(temperature=0, max_new_tokens=count)
        decoding = TokenSequence(
            self.caches, PROMPTS[index], options, stop_ids=frozenset(), context_length=128
        )
        return self.answering.start(decoding, log, priority)

    def expected(self, index: int, count: int = 24) -> list[int]:
        return generated(self.model.whole.network, PROMPTS[index], count, eos_token_id=None)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.model.opened.set()
    made.thread.stop()


def test_answers_come_token_by_token_and_end(desk: Desk) -> None:
    logs = [Log() for _ in PROMPTS]
    for index, log in enumerate(logs):
        desk.start(log, index)
    desk.model.opened.set()
    assert [log.wait() for log in logs] == [None] * 6
    assert [log.ids for log in logs] == [desk.expected(index) for index in range(6)]
    assert desk.model.sizes == [1, 2, 3, 4, 5, *[6] * 19, 5, 4, 3, 2, 1]


def test_the_thread_is_left_alone_when_all_is_done_and_taken_up_again(desk: Desk) -> None:
    desk.model.opened.set()
    for _ in range(3):
        log = Log()
        desk.start(log)
        assert (log.wait(), log.ids) == (None, desk.expected(0))


def test_those_who_wait_come_in_order() -> None:
    desk, order = Desk(max_concurrent=2), list[int]()
    logs = [Log(1, lambda index=index: order.append(index)) for index in range(6)]  # type: ignore[misc]
    for index, log in enumerate(logs):
        desk.start(log, index, count=3)
    desk.model.opened.set()
    assert [log.wait() for log in logs] == [None] * 6
    assert order == list(range(6))
    assert max(desk.model.sizes) == 2
    desk.thread.stop()


def test_a_cancelled_one_is_gone_before_the_next_step(desk: Desk) -> None:
    answers: list[ScheduledSequence] = []
    logs = [Log(), Log(5, lambda: desk.answering.cancel(answers[1])), Log()]
    answers += [desk.start(log, index) for index, log in enumerate(logs)]
    desk.model.opened.set()
    assert isinstance(logs[1].wait(), JobCancelledError)
    assert logs[1].ids == desk.expected(1)[:5]
    decoding = answers[1].sequence
    assert (decoding.finish_reason, decoding._cache) == ("cancelled", None)
    for index in (0, 2):
        assert (logs[index].wait(), logs[index].ids) == (None, desk.expected(index))
    desk.answering.cancel(answers[1])


def test_a_cancelled_one_that_waits_never_begins() -> None:
    desk = Desk(max_concurrent=1)
    first, second = Log(), Log()
    desk.start(first)
    desk.answering.cancel(desk.start(second))
    desk.model.opened.set()
    assert isinstance(second.wait(), JobCancelledError)
    assert (first.wait(), second.tokens) == (None, [])
    desk.thread.stop()


def test_a_cancelled_one_is_gone_though_more_important_work_goes_on(desk: Desk) -> None:
    talk, rest = Log(), Log()
    answer = desk.start(talk)
    gone = threading.Event()

    def judge() -> Iterator[None]:
        while not gone.is_set():
            desk.answering.cancel(answer)
            yield None
            gone.set() if talk.errors else None

    desk.thread.submit(judge(), rest, Priority.JUDGE)  # type: ignore[arg-type]
    desk.model.opened.set()
    assert (rest.wait(), desk.model.sizes) in [(None, []), (None, [1])]


def test_a_listener_that_raises_ends_its_own_answer(desk: Desk) -> None:
    def fail() -> None:
        raise ValueError("no reader")

    logs = [Log(), Log(3, fail), Log()]
    for index, log in enumerate(logs):
        desk.start(log, index)
    desk.model.opened.set()
    assert isinstance(logs[1].wait(), ValueError)
    assert len(logs[1].ids) == 3
    for index in (0, 2):
        assert (logs[index].wait(), logs[index].ids) == (None, desk.expected(index))


def test_a_judge_goes_between_two_steps(desk: Desk) -> None:
    judged: list[int] = []

    def judge() -> Iterator[None]:
        judged.append(len(desk.model.sizes))
        yield None

    ask = Log(4, lambda: desk.thread.submit(judge(), Log(), Priority.JUDGE) and None)  # type: ignore[arg-type]
    desk.start(ask, 0)
    log = Log()
    desk.start(log, 1)
    desk.model.opened.set()
    assert (ask.wait(), log.wait()) == (None, None)
    assert judged == [4]


def test_priorities_do_not_mix(desk: Desk) -> None:
    order: list[Priority] = []
    logs = []
    for index, priority in enumerate((Priority.CURIOSITY, Priority.CONVERSATION, Priority.JUDGE)):
        logs.append(Log(24, lambda p=priority: order.append(p)))  # type: ignore[misc]
        desk.start(logs[-1], index, priority)
    desk.model.opened.set()
    assert [log.wait() for log in logs] == [None] * 3
    assert set(desk.model.sizes) == {1}
    assert order == [Priority.JUDGE, Priority.CONVERSATION, Priority.CURIOSITY]


def test_fewer_admitted_later_ones_wait_and_those_that_run_go_on() -> None:
    desk = Desk(max_concurrent=2)
    logs = [Log(), Log(), Log()]
    for index, log in enumerate(logs):
        desk.start(log, index)
    desk.answering.max_concurrent = 1
    desk.model.opened.set()
    assert [log.wait() for log in logs] == [None] * 3
    assert desk.model.sizes[-24:] == [1] * 24
    assert desk.answering.running == desk.answering.waiting == 0
    desk.thread.stop()


def test_stopping_ends_all(desk: Desk) -> None:
    desk.answering.max_concurrent = 2
    logs = [Log(3, lambda: desk.thread.stop()), Log(), Log()]
    answers = [desk.start(log, index) for index, log in enumerate(logs)]
    desk.model.opened.set()
    assert all(isinstance(log.wait(), EngineStoppedError) for log in logs)
    assert all(answer.sequence._cache is None for answer in answers)
    desk.answering.cancel(answers[0])
    with pytest.raises(EngineStoppedError):
        desk.start(Log())


def test_an_error_of_the_whole_step_ends_all_and_the_next_begin_anew(desk: Desk) -> None:
    whole = desk.answering.model
    desk.answering.model = None  # type: ignore[assignment]
    logs = [Log(), Log()]
    for log in logs:
        desk.start(log)
    assert all(isinstance(log.wait(), AttributeError) for log in logs)
    desk.answering.model = whole
    desk.model.opened.set()
    after = Log()
    desk.start(after)
    assert (after.wait(), after.ids) == (None, desk.expected(0))
