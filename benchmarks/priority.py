"""What a conversation feels of a night's training and of the judge, on the default model."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.common import Bench, Goal, median, percentile, ratio
from benchmarks.default_model import default_model
from benchmarks.ours import ENOUGH, decoding
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.model import LoadedModel, load_model
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.scheduler import Scheduler
from sovl_daemon.engine.thread.tensor_thread import Priority, TensorThread

THREADS = 2
ROUNDS = 4
ANSWERS, TOKENS = 3, 64  # of a round
PAUSE_S = 0.3  # between two answers, in which others have the thread
PROMPT = list(range(100, 130))
STATE = list(range(100, 356))  # what the judge has read before
QUESTION = list(range(700, 724))
JUDGED_EACH_S = 1.0
JUDGEMENTS = 40
MICRO_STEP_S = 0.045


class Ear:
    """Hears when each token of an answer, or the verdict, was there, and what `count` was then."""

    def __init__(self, count: Callable[[], int] = int) -> None:
        self.began = time.perf_counter()
        self.at: list[float] = []
        self.counts: list[int] = []
        self.ended = threading.Event()
        self._count = count

    def result(self, value: Any) -> None:
        self.at.append(time.perf_counter())
        self.counts.append(self._count())

    def end(self, error: BaseException | None) -> None:
        self.ended.set()


@dataclass
class Talk:
    """Milliseconds to the first token of each answer, and between two tokens."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    typical: list[float] = field(default_factory=list)  # between two tokens, of each round

    def as_dict(self, name: str) -> dict[str, object]:
        return {
            "conversation": name,
            "token_ms": sum(self.between) / len(self.between),
            "p50_ms": percentile(self.between, 0.5),
            "p95_ms": percentile(self.between, 0.95),
            "max_ms": max(self.between),
            "first_token_ms": median(self.first),
        }


class Trainer:
    """Forward and backward passes through layers as wide as the model's, without an end."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.steps = 0
        self.ms: list[float] = []
        self._layers = nn.Sequential(nn.Linear(576, 1536), nn.SiLU(), nn.Linear(1536, 576))
        self._batch = torch.randn(64, 576)

    def endless(self) -> Iterator[None]:
        while True:
            self.ms.append(1000 * self._micro_step())
            self.steps += 1
            yield None

    def _micro_step(self) -> float:
        began = time.perf_counter()
        while (seconds := time.perf_counter() - began) < MICRO_STEP_S:
            self._layers.zero_grad()
            self._layers(self._batch).square().mean().backward()
        return seconds


class Host:
    """The model on its thread, as the daemon has it."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.thread = TensorThread()
        self.caches = PrefixCache(model, ENOUGH)
        self.answering = Scheduler(model, self.caches, self.thread, 8)
        self.trainer = Trainer()
        self.between_tokens = 0  # training steps, of all answers
        self._state = model.new_cache()
        model.forward([Span(STATE, self._state)])

    def talk(self, talk: Talk) -> None:
        """One round of answers."""
        between = []
        for _ in range(ANSWERS):
            time.sleep(PAUSE_S)
            between += self._answer(talk)
        talk.between += between
        talk.typical.append(median(between))

    def _answer(self, talk: Talk) -> list[float]:
        ear = Ear(lambda: self.trainer.steps)
        self.answering.start(decoding(self.caches, PROMPT, TOKENS), ear, Priority.CONVERSATION)
        ear.ended.wait()
        self.between_tokens += ear.counts[-1] - ear.counts[0]
        talk.first.append(1000 * (ear.at[0] - ear.began))
        return [1000 * (later - earlier) for earlier, later in pairwise(ear.at)]

    def judge(self) -> float:
        """Milliseconds until a verdict is there: one pass over a question behind what is kept."""
        ear = Ear()
        self.thread.submit(self._verdict(), ear, Priority.JUDGE)
        ear.ended.wait()
        return 1000 * (ear.at[0] - ear.began)

    def _verdict(self) -> Iterator[torch.Tensor]:
        yield self.model.forward([Span(QUESTION, self._state.fork(len(STATE)))])

    @contextmanager
    def training(self) -> Iterator[None]:
        ear = Ear()
        job = self.thread.submit(self.trainer.endless(), ear, Priority.TRAINING)
        try:
            yield
        finally:
            self.thread.cancel(job)
            ear.ended.wait()

    @contextmanager
    def judging(self) -> Iterator[None]:
        over = threading.Event()

        def judge() -> None:
            while not over.wait(JUDGED_EACH_S):
                self.judge()

        thread = threading.Thread(target=judge)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def judgements(host: Host, count: int) -> list[float]:
    """At moments that no step knows of."""
    found = []
    for _ in range(count):
        time.sleep(random.uniform(0.05, 0.25))
        found.append(host.judge())
    return found


def verdict_row(name: str, found: list[float]) -> dict[str, object]:
    return {
        "conversation": name,
        "token_ms": None,
        "p50_ms": percentile(found, 0.5),
        "p95_ms": percentile(found, 0.95),
        "max_ms": max(found),
        "first_token_ms": None,
    }


def run(quick: bool) -> Bench:
    model = load_model(default_model(), device="cpu", threads=THREADS)
    model.warm_up()
    host = Host(model)
    beside: dict[str, Callable[[], Any]] = {
        "alone": nullcontext,
        "beside training": host.training,
        "beside a judge each second": host.judging,
    }
    talks = {name: Talk() for name in beside}
    host.talk(Talk())
    host.between_tokens = 0
    for _ in range(2 if quick else ROUNDS):
        for name, company in beside.items():  # in turn, so that a slow spell hits all
            with company():
                host.talk(talks[name])
    count = JUDGEMENTS // (6 if quick else 1)
    alone = judgements(host, count)
    with host.training():
        judged = judgements(host, count)
    host.thread.stop()
    return told(host, talks, alone, judged)


def told(host: Host, talks: dict[str, Talk], alone: list[float], judged: list[float]) -> Bench:
    rows = [talk.as_dict(name) for name, talk in talks.items()]
    rows += [verdict_row("(verdict, idle)", alone), verdict_row("(verdict, training)", judged)]
    slowdown = ratio(talks["beside training"].typical, talks["alone"].typical)
    goals = [
        Goal("talk_slowdown_beside_training", slowdown, "<=", 1.5),
        Goal("training_steps_between_tokens", float(host.between_tokens), "<=", 0),
        Goal("judge_p95_ms_beside_training", percentile(judged, 0.95), "<=", 200),
    ]
    step = median(host.trainer.ms)
    note = (
        f"{THREADS} threads, weights in {host.model.plain}; the slowdown is of medians by round. "
        f"Training takes the tensor thread for {step:.0f} ms at a time. Between two of {ANSWERS} "
        f"answers of {TOKENS} tokens there are {PAUSE_S} s. The first token waits for the "
        f"micro-step that is running; a verdict too, and reads {len(QUESTION)} tokens behind "
        f"{len(STATE)} that are kept."
    )
    return Bench("priority", rows, goals, note)
