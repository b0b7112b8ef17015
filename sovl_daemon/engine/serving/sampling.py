"""From logits to the next tokens of several answers.

The steps and their order are those of transformers' generate: repetition penalty (Keskar et al.
2019, CTRL), temperature, top-k, nucleus (Holtzman et al. 2020). What is alike for several rows is
done for all at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sovl_daemon.engine.errors import NonFiniteLogitsError
from sovl_daemon.engine.serving.options import SamplingOptions


class TokenSampler:
    """How one answer is sampled: its options and a random generator of its own.

    The generator stays on the CPU: one number a token, the same on every device and whatever runs
    beside it. So a seed gives the same answer from the same logits; but in 16 bits the rounding of
    a row of logits may depend on what is read beside it.
    """

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self._generator = torch.Generator()
        if options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(options.seed)

    @property
    def greedy(self) -> bool:
        """Whether it takes the likeliest token and draws nothing."""
        return self.options.temperature == 0

    def point(self) -> torch.Tensor:
        """Return the next random number, uniform in [0, 1)."""
        return torch.rand((), generator=self._generator)


@dataclass(frozen=True, slots=True)
class Choice:
    """A token id, and the likeliest token's probability in the model's own distribution.

    That is the plain distribution, before penalty, temperature and truncation.
    """

    id: int
    probability: float


def choose(
    logits: torch.Tensor, samplers: Sequence[TokenSampler], histories: Sequence[Sequence[int]]
) -> list[Choice | NonFiniteLogitsError]:
    """Choose a token for each row of `logits` (B, vocab); an error where a row is no distribution.

    `histories` hold the ids of prompt and answer so far.
    """
    logits = logits.float()
    probabilities = highest_probabilities(logits)
    penalties = [sampler.options.repetition_penalty for sampler in samplers]
    if any(penalty != 1 for penalty in penalties):
        penalised = zip(logits, histories, penalties, strict=True)
        logits = torch.stack([penalise(*row) for row in penalised])
    ids: list[int] = logits.argmax(1).tolist()
    alike: dict[int, list[int]] = {}  # rows to draw from, by top_k
    for row, (sampler, probability) in enumerate(zip(samplers, probabilities, strict=True)):
        if not sampler.greedy and probability is not None:
            alike.setdefault(sampler.options.top_k, []).append(row)
    for rows in alike.values():
        chosen = [samplers[row] for row in rows]
        for row, id_ in zip(rows, draw(logits[rows], chosen), strict=True):
            ids[row] = id_
    return [
        NonFiniteLogitsError(
            "the model's logits are not finite: its weights are damaged or the number format is "
            "too narrow for it; try dtype float32"
        )
        if probability is None
        else Choice(id_, probability)
        for id_, probability in zip(ids, probabilities, strict=True)
    ]


def highest_probabilities(logits: torch.Tensor) -> list[float | None]:
    """Return max(softmax(row)) in (0, 1] for each row (B, vocab).

    None where a row has a NaN, an infinity, or nothing but minus infinity.
    """
    highest: list[float] = torch.exp(logits.amax(1) - logits.logsumexp(1)).tolist()
    return [min(each, 1.0) if 0 < each <= 1.001 else None for each in highest]


def penalise(logits: torch.Tensor, history: Sequence[int], penalty: float) -> torch.Tensor:
    """Divide positive and multiply negative logits (vocab,) of tokens in `history` by `penalty`."""
    if penalty == 1 or not history:
        return logits
    seen = torch.tensor(history, device=logits.device)
    scores = logits[seen]
    return logits.scatter(0, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def draw(logits: torch.Tensor, samplers: Sequence[TokenSampler]) -> list[int]:
    """Draw a token for each row (n, vocab); the samplers have one top_k, and temperatures above 0.

    By the inverse of the cumulative distribution at one uniform number each.
    """
    probabilities, ids = candidates(logits, [sampler.options for sampler in samplers])
    cumulative = probabilities.cumsum(1)
    points = torch.stack([sampler.point() for sampler in samplers]).to(cumulative)[:, None]
    index = torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True)
    # Rounding may put a point on the total itself, which lies beyond the last that is kept.
    last = (probabilities > 0).sum(1, keepdim=True) - 1
    chosen: list[int] = ids.gather(1, index.minimum(last))[:, 0].tolist()
    return chosen


def candidates(
    logits: torch.Tensor, options: Sequence[SamplingOptions]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities and token ids (n, k) that top-k leaves in each row, likeliest first.

    What top-p drops has probability 0, so they need not sum to 1. The options have one `top_k`.
    """
    vocabulary = logits.shape[1]
    scores, ids = torch.topk(logits, min(options[0].top_k or vocabulary, vocabulary))
    temperature = scores.new_tensor([each.temperature for each in options])[:, None]
    # Relative to the highest score, so that a tiny temperature cannot overflow.
    probabilities = ((scores - scores[:, :1]) / temperature).softmax(1)
    limit = scores.new_tensor([each.top_p if each.top_p < 1 else 2 for each in options])[:, None]
    before = probabilities.cumsum(1) - probabilities
    return probabilities.where(before < limit, 0), ids
