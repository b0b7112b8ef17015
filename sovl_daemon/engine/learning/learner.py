"""Training of the pair: what the scaffold says to the base learns, the base never does.

Loss is taken on the base's answers, steered as they are when it answers: from the end of the
prompt on, by what the scaffold remembers of the prompt alone.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypedDict

import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from sovl_daemon.engine.errors import NonFiniteLossError, OptionError
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.learning.activation_cache import ActivationCache
from sovl_daemon.engine.learning.base_pass import base_pass
from sovl_daemon.engine.learning.candidate import Candidate
from sovl_daemon.engine.learning.memory_pass import BatchMemory, memory_pass
from sovl_daemon.engine.learning.sample import Ids, Sample, ThrottleFactors
from sovl_daemon.engine.model.model import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerOptions:
    """How a learner learns.

    `learning_rate` rises over the first `warmup` updates and falls in a straight line to zero at
    `updates`, if that is not 0; every `accumulation` steps make one update; `clip` bounds the norm
    of its gradient; `replay` weighs the samples with a teacher against those without, both as
    means over tokens; `kept_mb` bounds the memory for what needs not be computed twice.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    warmup: int = 5
    updates: int = 0
    accumulation: int = 1
    clip: float = 1.0
    replay: float = 2.0
    seed: int = 42
    kept_mb: int = 128


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did: losses a token (0 where there was none), tokens of the answers, seconds.

    `loss` is the cross-entropy of the answers, `divergence` KL(base || fused) where there is a
    teacher; `gradient_norm` that of the last update's gradient, before it was clipped.
    """

    loss: float
    divergence: float
    tokens: int
    seconds: float
    gradient_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class LossDenominators:
    """What the losses of a micro-batch are divided by: tokens of the answers, weighed.

    Of the samples without a teacher, and of those with one.
    """

    told: float
    taught: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "LossDenominators":
        """Return the denominators of a micro-batch."""
        taught = [0.0, 0.0]
        for sample in samples:
            taught[sample.teacher is not None] += sample.weight * len(sample.answer)
        return cls(*taught)


class _ParameterGroup(TypedDict):
    """What the optimizer knows of parameters with one learning rate."""

    params: list[torch.nn.Parameter]
    weight: float


class Learner:
    """Trains a candidate of the fusion's attentions and adapters; use it on the tensor thread.

    `throttle` may be set while it learns; `throttled` is what was really done: the rate of the last
    update, and the largest share of the last micro-batch that was computed at a time. `rows` is how
    many samples the largest micro-batch had so far.

    Layers and their weights are `weights`, or those the fusion steers with when it is made. What
    answers stays as it is until `commit`. `common` is what most prompts begin with: it is read once
    a step.
    """

    def __init__(
        self,
        base: LoadedModel,
        fusion: Fusion,
        options: LearnerOptions,
        *,
        common: Ids = (),
        weights: Mapping[int, float] | None = None,
    ) -> None:
        chosen = fusion.influence.weights_of(fusion.layers) if weights is None else weights
        self._weights = {layer: weight for layer, weight in chosen.items() if weight > 0}
        if not self._weights:
            raise OptionError("nothing steers the base: choose layers, and weights above 0")
        self.options = options
        self.candidate = Candidate(fusion, tuple(self._weights))
        self.updates = 0
        self.throttle = self.throttled = ThrottleFactors()
        self.rows = 0
        self._gradient_norm = 0.0
        self._pending = 0
        self._common = common
        self._limit = base.max_context
        self._cache = ActivationCache(options.kept_mb << 20)
        self._threads = base.threads
        self._base = base_pass(base, tuple(self._weights), self._cache)
        self._scaffold = memory_pass(fusion, self.candidate, self._cache, base.threads)
        self._parameters = [each for _, each in self.candidate.named_parameters()]
        self._optimizer = torch.optim.AdamW(
            self._groups(), options.learning_rate, weight_decay=options.weight_decay
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self._random = torch.get_rng_state()

    @property
    def steps(self) -> int:
        """How many micro-batches it has learned from, before it was loaded too."""
        return self.updates * self.options.accumulation + self._pending

    def step(self, batch: Sequence[Sample]) -> StepReport:
        """Learn from one micro-batch; of what is longer than the base can read, a part.

        Raises:
            NonFiniteLossError: the loss is not a number; nothing was changed.

        """
        began = time.perf_counter()
        batch = self._readable(batch)
        parts, denominators = self._parts(batch), LossDenominators.of(batch)
        self._threads.use("training")
        with (
            torch.random.fork_rng(devices=[]),
            self._gradients(),
        ):
            torch.set_rng_state(self._random)
            losses = []
            for part in parts:
                loss, divergence = self._losses(part, denominators, dropout=True)
                self._threads.use("training")  # what the layers found out on the way
                whole = loss + self.options.replay * divergence
                if not torch.isfinite(whole):
                    raise NonFiniteLossError(f"a loss of {whole.item()}: lower the learning rate")
                if whole.requires_grad:
                    (whole / self.options.accumulation).backward()
                losses.append((loss.item(), divergence.item()))
            self._random = torch.get_rng_state()
        self.rows = max(self.rows, len(batch))
        self.throttled = replace(self.throttled, batch=max(map(len, parts)) / max(1, len(batch)))
        self._pending += 1
        if self._pending >= self.options.accumulation:
            self._update()
        tokens = sum(len(sample.answer) for sample in batch)
        seconds = time.perf_counter() - began
        told, taught = map(sum, zip(*losses, strict=True))
        return StepReport(told, taught, tokens, seconds, self._gradient_norm)

    def evaluate(self, samples: Sequence[Sample]) -> StepReport:
        """Return the losses of samples without learning from them."""
        began = time.perf_counter()
        samples = self._readable(samples)
        self._threads.use("training")
        with torch.no_grad():
            loss, divergence = self._losses(samples, LossDenominators.of(samples), dropout=False)
        tokens = sum(len(sample.answer) for sample in samples)
        return StepReport(float(loss), float(divergence), tokens, time.perf_counter() - began)

    def commit(self) -> None:
        """Let what was learned answer from now on."""
        self.candidate.commit()

    def state(self) -> dict[str, torch.Tensor]:
        """Return all it takes to go on as if nothing had happened, fit for a safetensors file."""
        state = {f"learned.{name}": each for name, each in self.candidate.state().items()}
        for name, parameter in self.candidate.named_parameters():
            if parameter.grad is not None:
                state[f"gradient.{name}"] = parameter.grad.clone()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                state[f"{key}.{name}"] = value.clone()
        counts = torch.tensor([self.updates, self._pending])
        return state | {"random": self._random.clone(), "counts": counts}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on where `state` was taken.

        Raises:
            OptionError: it is of other layers or adapters.

        """
        self.candidate.load(_named(state, "learned"))
        parameters = dict(self.candidate.named_parameters())
        gradients = _named(state, "gradient")
        moments = {key: _named(state, key) for key in ("step", "exp_avg", "exp_avg_sq")}
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].clone() if name in gradients else None
            self._optimizer.state[parameter] = {
                key: values[name].clone() for key, values in moments.items() if name in values
            }
        self._random = state["random"].clone()
        self.updates, self._pending = (int(count) for count in state["counts"])

    def _readable(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        limit = self._limit
        return samples if limit is None else [sample.within(limit) for sample in samples]

    def _parts(self, batch: Sequence[Sample]) -> list[Sequence[Sample]]:
        """Return the rows that are computed at a time; long and short ones are in each part."""
        rows = max(1, len(batch))
        count = math.ceil(rows / math.ceil(rows * self.throttle.batch))
        return [batch[place::count] for place in range(count)]

    @contextmanager
    def _gradients(self) -> Iterator[None]:
        """Add to the gradients what comes of all parts, or nothing if one of them fails."""
        pending = [each.grad for each in self._parameters]
        self._optimizer.zero_grad(set_to_none=True)
        try:
            with torch.enable_grad():
                yield
        except BaseException:
            for parameter, before in zip(self._parameters, pending, strict=True):
                parameter.grad = before
            raise
        for parameter, before in zip(self._parameters, pending, strict=True):
            if before is not None:
                parameter.grad = before if parameter.grad is None else before + parameter.grad

    def _update(self) -> None:
        self.throttled = replace(self.throttled, rate=self.throttle.rate)
        for group in self._optimizer.param_groups:
            rate = (
                self.throttled.rate
                * self.options.learning_rate
                * rate_factor(self.updates, self.options)
            )
            group["lr"] = rate / group["weight"]
        self._gradient_norm = float(clip_grad_norm_(self._parameters, self.options.clip))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self._pending = 0

    def _groups(self) -> list[_ParameterGroup]:
        """What an attention puts out counts by its layer's weight, so its steps are the larger.

        Else a mind that is little influenced would learn as much the less.
        """
        groups: dict[float, list[torch.nn.Parameter]] = {1.0: []}
        for name, parameter in self.candidate.named_parameters():
            weight = 1.0
            if name.endswith(".output.weight") and name.startswith("attention."):
                weight = self._weights[int(name.split(".")[1])]
            groups.setdefault(weight, []).append(parameter)
        return [
            _ParameterGroup(params=each, weight=weight) for weight, each in groups.items() if each
        ]

    def _losses(
        self, samples: Sequence[Sample], denominators: LossDenominators, *, dropout: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shares that samples have in the losses of all that `denominators` counts."""
        told = [sample for sample in samples if sample.teacher is None]
        taught = [sample for sample in samples if sample.teacher is not None]
        loss = divergence = torch.zeros(())
        if told:
            logits, _, weights = self._logits(told, dropout)
            targets = torch.tensor([id_ for sample in told for id_ in sample.answer])
            each = functional.cross_entropy(logits, targets.to(logits.device), reduction="none")
            loss = (each * weights).sum() / denominators.told
        if taught:
            logits, real, weights = self._logits(taught, dropout)
            with torch.no_grad():
                turns = [(sample.teacher or (), sample.answer) for sample in taught]
                common = self._shared_by([prompt for prompt, _ in turns])
                wanted = self._base.head(self._base.plain(turns, common)[real]).log_softmax(-1)
            # KL(base given the teacher's prompt || fused) of each token
            found = logits.log_softmax(-1)
            each = functional.kl_div(found, wanted, log_target=True, reduction="none").sum(-1)
            divergence = (each * weights).sum() / denominators.taught
        return loss, divergence

    def _logits(
        self, samples: Sequence[Sample], dropout: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the steered logits (N, vocab) of all answers' tokens, and of which sample each is.

        That is told by a mask (B, A), and by the weight (N,) that each has from its sample.
        """
        prompts = [sample.prompt for sample in samples]
        turns = [(sample.prompt, sample.answer) for sample in samples]
        common = self._shared_by(prompts)
        memory = self._scaffold.read(prompts, common, dropout=dropout)
        hidden = self._base.steered(turns, common, partial(self._steer, memory))
        lengths = torch.tensor([len(sample.answer) for sample in samples], device=hidden.device)
        real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        weights = torch.tensor([sample.weight for sample in samples], device=real.device)
        weights = weights[:, None].expand_as(real)[real]
        return self._base.head(hidden[real]), real, weights

    def _shared_by(self, prompts: Sequence[Ids]) -> int:
        """Return the length of `common` if all prompts begin so, else 0."""
        common = self._common
        begin = all(len(p) > len(common) and p[: len(common)] == common for p in prompts)
        return len(common) if begin else 0

    def _steer(self, memory: BatchMemory, layer: int, x: torch.Tensor) -> torch.Tensor:
        return memory.added(self.candidate.attentions[layer], x) * self._weights[layer]


def _named(state: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    start = f"{kind}."
    return {name.removeprefix(start): v for name, v in state.items() if name.startswith(start)}


def rate_factor(update: int, options: LearnerOptions) -> float:
    """Return the share of the learning rate that holds for an update, counted from 0."""
    rising = min(1.0, (update + 1) / max(1, options.warmup))
    if not options.updates:
        return rising
    return rising * max(0.0, 1 - update / options.updates)
