"""Who learns in a night: the pair as the daemon makes and teaches it, and plain LoRA on the base.

Both have the shipped settings, unless others are given, and the daemon's own training session.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from agents.generator.steering import fused_layers, fusion_options, influence_of
from agents.training.session import REPLAY, EvalResult, TrainingSession
from config import Settings
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.fusion.scaffold import LeanScaffold, make_scaffold
from sovl_daemon.engine.fusion.steering import Steering
from sovl_daemon.engine.learning.activation_cache import ActivationCache
from sovl_daemon.engine.learning.candidate import Candidate
from sovl_daemon.engine.learning.lean_batch import multiply
from sovl_daemon.engine.learning.learner import LearnerOptions, rate_factor
from sovl_daemon.engine.learning.memory_pass import LeanMemoryPass
from sovl_daemon.engine.learning.sample import Sample, common_prefix
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.mind.lifecycle import capacity, exposure_gain, life_weight, stage
from sovl_daemon.night.curriculum import Curriculum, CurriculumOptions

LORA_RATE = 4e-3  # of 1e-3 and 4e-3 the better; the pair learns at that, too
NOTHING = Curriculum((), (), (), CurriculumOptions())
TOGETHER = 8
State = dict[str, torch.Tensor]


class Pupil(ABC):
    """Learns one night; `prompts` is how many it has heard in its life, which is its age."""

    def __init__(self, engine: Engine, settings: Settings, prompts: int) -> None:
        assert engine.fusion is not None
        training = settings.training_config
        exposure = prompts * exposure_gain(0.0, training)
        self.engine, self.settings = engine, settings
        self.stage = stage(exposure, capacity(engine.fusion.trainable, training))
        self.session = TrainingSession(engine, settings, self.stage)

    @abstractmethod
    async def begin(self, curriculum: Curriculum) -> None:
        """Make a fresh candidate, for a night of this curriculum."""

    @abstractmethod
    async def learn(self, curriculum: Curriculum) -> int:
        """Learn all of the curriculum; the tokens of its answers."""

    @abstractmethod
    async def loss(self, samples: Sequence[Sample]) -> float:
        """Of the candidate, a token."""

    @abstractmethod
    async def drift(self, samples: Sequence[Sample]) -> float:
        """KL(base || candidate), a token."""

    @abstractmethod
    async def state(self) -> State:
        """What the candidate has learned."""

    @abstractmethod
    async def load(self, state: State) -> None:
        """Let the candidate be what another has learned."""

    @abstractmethod
    async def commit(self) -> None:
        """Answer with what the candidate is."""

    async def evaluate(self, curriculum: Curriculum) -> EvalResult:
        """As TrainingSession.evaluate."""
        recall = (
            math.exp(-await self.loss(curriculum.eval_questions))
            if curriculum.eval_questions
            else 1.0
        )
        return EvalResult(recall, await self.drift(curriculum.eval_dreams))


class Pair(Pupil):
    """The base with its scaffold."""

    async def begin(self, curriculum: Curriculum) -> None:
        self.learner = await self.session.learner(curriculum, night=True)

    async def learn(self, curriculum: Curriculum) -> int:
        return sum([each.tokens async for each in self.session.steps(self.learner, curriculum)])

    async def loss(self, samples: Sequence[Sample]) -> float:
        return await self.session.loss(self.learner, samples)

    async def drift(self, samples: Sequence[Sample]) -> float:
        found = await self.session.evaluate(
            self.learner, replace(NOTHING, eval_dreams=tuple(samples))
        )
        return found.drift

    async def state(self) -> State:
        found: State = await self.session.on_thread(self.learner.candidate.state)
        return found

    async def load(self, state: State) -> None:
        await self.session.on_thread(partial(self.learner.candidate.load, state))

    async def commit(self) -> None:
        """The weight of its age comes into force with it."""
        lifecycle = self.settings.controls_config.enable_lifecycle_weighting
        factor = life_weight(self.stage, self.settings.training_config) if lifecycle else 1.0
        layers = fused_layers(self.settings, self.engine.model.layers)
        await self.session.on_thread(self.learner.commit)
        await self.engine.steer(Steering(layers, influence_of(self.settings, factor)))


class Lora(Pupil):
    """Plain LoRA on all layers of the base; shares its matrices, and learns as the Learner does."""

    async def begin(self, curriculum: Curriculum) -> None:
        await self.session.on_thread(partial(self._make, curriculum))

    def _make(self, curriculum: Curriculum) -> None:
        options = fusion_options(self.settings)
        made = make_scaffold(self.engine.model, replace(options.lora, blocks=0), seed=self.seed)
        assert isinstance(made, LeanScaffold)
        # For its bookkeeping of adapters alone; it steers nothing.
        fusion = Fusion(self.engine.model, made, rank=4, heads=1, seed=0)
        fusion.unload()
        self.candidate, self.lean = Candidate(fusion, ()), made.lean
        self.common, self.updates = common_prefix([*curriculum.lessons, *curriculum.chats]), 0
        self.options = LearnerOptions(
            learning_rate=LORA_RATE, updates=curriculum.steps, replay=REPLAY, seed=self.seed
        )
        self.reader = LeanMemoryPass(
            made, self.candidate, ActivationCache(0), self.engine.model.threads
        )
        adapters = self.candidate.adapters.values()
        self.optimizer = torch.optim.AdamW(adapters, LORA_RATE, weight_decay=0.0)
        torch.manual_seed(self.seed)

    @property
    def seed(self) -> int:
        return self.settings.core_config.random_seed

    async def learn(self, curriculum: Curriculum) -> int:
        steps = [
            await self.session.on_thread(partial(self._step, batch))
            for batch in curriculum.batches()
        ]
        return sum(steps)

    async def loss(self, samples: Sequence[Sample]) -> float:
        return await self._mean(samples, self._surprise)

    async def drift(self, samples: Sequence[Sample]) -> float:
        return await self._mean(samples, self._divergence)

    async def state(self) -> State:
        found: State = await self.session.on_thread(self.candidate.state)
        return found

    async def load(self, state: State) -> None:
        await self.session.on_thread(partial(self.candidate.load, state))

    async def commit(self) -> None:
        await self.session.on_thread(self.candidate.commit)
        self.engine.model.lean = self.lean

    async def _mean(self, samples: Sequence[Sample], measure: Any) -> float:
        """Over the tokens of all answers."""
        total = 0.0
        for at in range(0, len(samples), TOGETHER):
            part = samples[at : at + TOGETHER]
            found = await self.session.on_thread(torch.no_grad()(partial(measure, part)))
            total += float(found) * _tokens(part)
        return total / max(1, _tokens(samples))

    def _logits(self, samples: Sequence[Sample], *, dropout: bool) -> torch.Tensor:
        """Of all tokens of all answers, (N, vocab)."""
        turns = [sample.prompt + sample.answer[:-1] for sample in samples]
        begin = self.common
        common = len(begin) if all(t[: len(begin)] == begin for t in turns) else 0
        hidden = self.reader.read(turns, common, dropout=dropout).hidden
        rows = [
            hidden[i, len(s.prompt) - 1 - common : len(t) - common]
            for i, (s, t) in enumerate(zip(samples, turns, strict=True))
        ]
        return multiply(self.lean.head, torch.cat(rows), {}).float()

    def _surprise(self, samples: Sequence[Sample], *, dropout: bool = False) -> torch.Tensor:
        targets = torch.tensor([id_ for sample in samples for id_ in sample.answer])
        return functional.cross_entropy(self._logits(samples, dropout=dropout), targets)

    def _divergence(self, samples: Sequence[Sample], *, dropout: bool = False) -> torch.Tensor:
        # Before any graph is made: it changes the adapters for a moment.
        wanted = self._plain(samples).log_softmax(-1)
        found = self._logits(samples, dropout=dropout).log_softmax(-1)
        each = functional.kl_div(found, wanted, log_target=True, reduction="none")
        return each.sum(-1).mean()

    @torch.no_grad()
    def _plain(self, samples: Sequence[Sample]) -> torch.Tensor:
        """As the base has it: with adapters that add nothing."""
        ups = {n: p for n, p in self.candidate.adapters.items() if "lora_B" in n}
        kept = {name: each.clone() for name, each in ups.items()}
        for each in ups.values():
            each.zero_()
        found = self._logits(samples, dropout=False)
        for name, each in ups.items():
            each.copy_(kept[name])
        return found

    def _step(self, batch: Sequence[Sample]) -> int:
        told = [sample for sample in batch if sample.teacher is None]
        dreams = [sample for sample in batch if sample.teacher is not None]
        with torch.enable_grad():
            loss = torch.zeros(())
            if dreams:
                loss = self.options.replay * self._divergence(dreams, dropout=True)
            if told:
                loss = loss + self._surprise(told, dropout=True)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.candidate.adapters.values(), self.options.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * rate_factor(self.updates, self.options)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        return _tokens(batch)


@dataclass(frozen=True)
class Slept:
    """What a night left: figures of it, and what was learned, None if the daemon throws it away."""

    figures: dict[str, object]
    problem: str | None
    state: State


async def sleep(
    pupil: Pupil,
    told: Sequence[str],
    *,
    known: Sequence[str] = (),
    learned: State | None = None,
    steps: int | None = None,
) -> Slept:
    """A night about what was told, after nights that left `learned`; fewer `steps` make it short.

    `known` is what those nights were about.
    """
    if learned is not None:
        await pupil.begin(NOTHING)
        await pupil.load(learned)
        await pupil.commit()
    began = time.perf_counter()
    curriculum = await pupil.session.plan_night(_entries(told), _entries(known))
    if steps is not None:
        curriculum = curriculum.lasting(steps, 1.0)
    planned = time.perf_counter() - began
    await pupil.begin(curriculum)
    before = await pupil.evaluate(curriculum)
    tokens = await pupil.learn(curriculum)
    after = await pupil.evaluate(curriculum)
    problem = pupil.session.rejection(before, after, curriculum)
    figures = {
        "night_s": time.perf_counter() - began,
        "planning_s": planned,
        "steps": curriculum.steps,
        "tokens": tokens,
        "lessons": len(curriculum.lessons),
        "exam_recall": after.recall,
        "exam_drift": after.drift,
        "kept": problem is None,
    }
    return Slept(figures, problem, await pupil.state())


def _entries(told: Sequence[str]) -> list[Interaction]:
    """As the memory has them; of what tells something, no response is learned from."""
    return [Interaction("", "", text, "", 0, None) for text in told]


def _tokens(samples: Sequence[Sample]) -> int:
    return sum(len(sample.answer) for sample in samples)
