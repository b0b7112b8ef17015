"""Training on pairs: as fast as transformers' Trainer, and a conversation hardly feels it."""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import torch

from agents.training.session import TrainingSession
from benchmarks.common import Bench, Goal, median, ratio
from benchmarks.newborn import THREADS, born
from benchmarks.priority import ANSWERS, PAUSE_S, ROUNDS, TOKENS, Talk
from benchmarks.train_peer import Peer
from config import Paths, Settings
from sovl_daemon.client import Client, ClientError, CommandError
from sovl_daemon.engine.learning.sample import Sample
from sovl_daemon.night.curriculum import Curriculum
from sovl_daemon.testing import Daemon, running

PACE_ROUNDS, QUICK_ROUNDS = 3, 1
QUICK_PAIRS = 16
OURS = "ours"
PEERS = {"Trainer float32": torch.float32, "Trainer bfloat16": torch.bfloat16}
ALONE, BESIDE = "conversation alone", "conversation beside training"
STORY = "Tell me a very long story about a lighthouse."
SETTINGS = {
    "controls_config.has_woken": True,
    "controls_config.enable_repetition_check": False,
    "generation.system_prompt": "",  # the shipped one asks for one sentence
    "training_config.max_patience": 1000,  # it trains as long as the conversation lasts
}


# How fast it trains


async def paces(quick: bool) -> dict[str, list[float]]:
    """Tokens of prompts and answers a second, of each round."""
    settings = Settings()
    found: dict[str, list[float]] = {name: [] for name in (OURS, *PEERS)}
    async with born(settings) as engine:
        session = TrainingSession(engine, settings, 0.0)
        path = Paths.of(settings).training_file
        dataset = await session.dataset(path, epochs=None, skip_bad=False, dry=False)
        lessons = whole_updates(dataset.curriculum, QUICK_PAIRS if quick else None)
        samples = [sample for batch in one_epoch(lessons) for sample in batch]
        with tempfile.TemporaryDirectory(prefix="sovl") as place:
            peers = {name: Peer(dtype, settings, Path(place)) for name, dtype in PEERS.items()}
            for _ in range(
                QUICK_ROUNDS if quick else PACE_ROUNDS
            ):  # in turn: a slow spell hits all
                found[OURS].append(await our_pace(session, lessons))
                for name, peer in peers.items():
                    # On the same thread: each that computes has workers of its own.
                    seconds = await session.on_thread(partial(peer.train, samples))
                    found[name].append(tokens_of(samples) / seconds)
    return {name: each[1:] for name, each in found.items()}


async def our_pace(session: TrainingSession, curriculum: Curriculum) -> float:
    """Of a training with all its epochs, what is read once for all of them included."""
    learner = await session.learner(curriculum, night=False)
    began = time.perf_counter()
    async for _ in session.steps(learner, curriculum):
        pass
    seconds = time.perf_counter() - began
    return tokens_of(curriculum.lessons) * curriculum.options.epochs / seconds


def whole_updates(curriculum: Curriculum, most: int | None) -> Curriculum:
    """No batch of an epoch is short, so that both cut the same samples into the same batches."""
    training = Settings().training_config
    update = training.batch_size * training.accumulation_steps
    lessons = curriculum.lessons[:most]
    return replace(curriculum, lessons=lessons[: len(lessons) // update * update])


def one_epoch(curriculum: Curriculum) -> Iterator[list[Sample]]:
    return replace(curriculum, options=replace(curriculum.options, epochs=1)).batches()


def tokens_of(samples: Sequence[Sample]) -> int:
    return sum(len(sample.prompt) + len(sample.answer) for sample in samples)


# What a conversation feels of it


@dataclass
class Conversation:
    """Answers of a real daemon: how fast they came, how many failed, beside how many steps."""

    daemon: Daemon
    talks: dict[str, Talk] = field(default_factory=lambda: {ALONE: Talk(), BESIDE: Talk()})
    answers: int = 0
    failed: int = 0
    steps: int = 0

    def go_on(self, name: str) -> None:
        """One round of answers."""
        between: list[float] = []
        with self.daemon.client() as client:
            for _ in range(ANSWERS):
                time.sleep(PAUSE_S)
                between += self._answer(client, self.talks[name])
        self.talks[name].between += between
        self.talks[name].typical.append(median(between))

    def _answer(self, client: Client, talk: Talk) -> list[float]:
        began = time.perf_counter()
        asked = {"prompt": STORY, "temperature": 0, "max_tokens": TOKENS}
        self.answers += 1
        try:
            steps = client.stream("generate", **asked)
            at = [time.perf_counter() for step in steps if "finish_reason" not in step]
            assert at, "an answer without a word"
        except (AssertionError, ClientError, CommandError) as error:
            print(f"failed: {error}", file=sys.stderr)
            self.failed += 1
            return []
        talk.first.append(1000 * (at[0] - began))
        return [1000 * (later - earlier) for earlier, later in pairwise(at)]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Training on the shipped pairs, from its first step on."""
        begun, over = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._train, args=(begun, over))
        thread.start()
        try:
            assert begun.wait(120), "it never began to train"
            yield
        finally:
            over.set()
            thread.join()

    def _train(self, begun: threading.Event, over: threading.Event) -> None:
        with self.daemon.client() as client:
            for step in client.stream("train", epochs=1000, fresh=True):
                if "epoch" in step:
                    self.steps += begun.is_set()
                    begun.set()
                if over.is_set():
                    return


def conversation(quick: bool) -> Conversation:
    beside: dict[str, Callable[[], Any]]
    with (
        tempfile.TemporaryDirectory(prefix="sovl") as root,
        running(Path(root), **SETTINGS) as daemon,
    ):
        daemon.logged("scaffold.ready")
        talking = Conversation(daemon)
        talking.go_on(ALONE)  # not counted: the first is slow
        talking.talks[ALONE] = Talk()
        beside = {ALONE: nullcontext, BESIDE: talking.training}
        for _ in range(2 if quick else ROUNDS):  # in turn, so that a slow spell hits both
            for name, company in beside.items():
                with company():
                    talking.go_on(name)
        return talking


def run(quick: bool) -> Bench:
    return told(anyio.run(paces, quick), conversation(quick))


def told(found: dict[str, list[float]], talking: Conversation) -> Bench:
    trained = [
        {"measured": name, "tokens_per_s": median(each), "best": max(each)}
        for name, each in found.items()
    ]
    felt = [talk.as_dict(name) for name, talk in talking.talks.items()]
    felt = [{"measured": each.pop("conversation")} | each for each in felt]
    columns = dict.fromkeys([*trained[0], *felt[0]])
    rows = [{name: row.get(name) for name in columns} for row in (*trained, *felt)]
    peers = [max(each) for each in zip(*(found[name] for name in PEERS), strict=True)]
    slowdown = ratio(talking.talks[BESIDE].typical, talking.talks[ALONE].typical)
    goals = [
        Goal("tokens_per_s_over_trainer", ratio(found[OURS], peers), ">=", 1),
        Goal("talk_slowdown_while_training", slowdown, "<=", 1.5),
        Goal("failed_answers", float(talking.failed), "<=", 0),
    ]
    return Bench("train", rows, goals, note(talking))


def note(talking: Conversation) -> str:
    training, lora = Settings().training_config, Settings().lora_config
    return (
        f"{THREADS} threads, on the tensor thread both; medians of rounds in turn after one that "
        "does not count, the ratio by round over the faster of the two Trainers. tokens_per_s: all "
        "tokens of prompts and answers of the shipped pairs, padding left out, in the same batches "
        f"in the same order. Both: batches of {training.batch_size}, {training.accumulation_steps} "
        f"of them for an update, rank {lora.lora_rank} on {' and '.join(lora.lora_target_modules)} "
        f"with dropout {lora.lora_dropout}, at most {training.max_seq_length} tokens a sample, "
        "loss on the answers alone. ours: base and scaffold both run; adapters on the scaffold's "
        "last blocks and the cross-attentions learn. It is a whole training of "
        f"{training.train_epochs} epochs, of which the first computes what the others need not, "
        "and what all prompts begin with, the system message, is read once a batch, but counts for "
        "each sample. Trainer: peft's LoRA on all layers of the base alone with transformers' "
        "Trainer, one epoch, as each costs the same. The conversation is with a daemon that is as "
        f"shipped but for the system message: {talking.answers} answers of up to {TOKENS} tokens, "
        f"{ANSWERS} a round with {PAUSE_S} s before each; training went {talking.steps} steps "
        "meanwhile, none of them between two tokens by design, so the first token waits. The "
        "slowdown is of the medians by round."
    )
