"""From logits to the next token.

The steps and their order are those of transformers' generate: repetition penalty (Keskar et al.
2019, CTRL), temperature, top-k, nucleus (Holtzman et al. 2020).
"""

from collections.abc import Sequence

import torch

from sovl_daemon.engine.errors import NonFiniteLogitsError
from sovl_daemon.engine.options import SamplingOptions


class Sampler:
    """Chooses the tokens of one answer.

    It draws from a random generator of its own, so a seed gives the same answer whatever runs
    beside it. The generator stays on the CPU: one number a token, the same on every device.
    """

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._generator = torch.Generator()
        if options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(options.seed)

    def choose(self, logits: torch.Tensor, history: Sequence[int]) -> tuple[int, float]:
        """Return the next token id and the model's own highest probability at this step.

        `logits` is (vocab,); `history` holds the ids of prompt and answer so far. The probability
        is of the plain distribution, before penalty, temperature and truncation.

        Raises:
            NonFiniteLogitsError: the logits are not a distribution.

        """
        logits = logits.float()
        probability = highest_probability(logits)
        logits = penalise(logits, history, self._options.repetition_penalty)
        if self._options.temperature == 0:
            return int(logits.argmax()), probability
        probabilities, ids = candidates(logits, self._options)
        return int(ids[self._draw(probabilities)]), probability

    def _draw(self, probabilities: torch.Tensor) -> int:
        """Inverse of the cumulative distribution at one uniform number."""
        cumulative = probabilities.cumsum(0)
        point = torch.rand((), generator=self._generator).to(cumulative.device) * cumulative[-1]
        # Rounding may put the point on the total itself, which no index lies beyond.
        index = int(torch.searchsorted(cumulative, point, right=True))
        return min(index, len(cumulative) - 1)


def highest_probability(logits: torch.Tensor) -> float:
    """Return max(softmax(logits)) in (0, 1].

    Raises:
        NonFiniteLogitsError: a NaN, an infinity, or nothing but minus infinity.

    """
    highest = float(torch.exp(logits.max() - logits.logsumexp(0)))
    if not 0 < highest <= 1.001:
        raise NonFiniteLogitsError(
            "the model's logits are not finite: its weights are damaged or the number format is "
            "too narrow for it; try dtype float32"
        )
    return min(highest, 1.0)


def penalise(logits: torch.Tensor, history: Sequence[int], penalty: float) -> torch.Tensor:
    """Divide positive and multiply negative logits of tokens in `history` by `penalty`."""
    if penalty == 1 or not history:
        return logits
    seen = torch.tensor(history, device=logits.device)
    scores = logits[seen]
    return logits.scatter(0, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def candidates(logits: torch.Tensor, options: SamplingOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities (n,) and token ids (n,) that top-k and top-p leave, likeliest first.

    The probabilities do not sum to 1 after top-p. `options.temperature` must be above 0.
    """
    count = min(options.top_k or len(logits), len(logits))
    scores, ids = torch.topk(logits, count)
    # Relative to the highest score, so that a tiny temperature cannot overflow.
    probabilities = ((scores - scores[0]) / options.temperature).softmax(0)
    if options.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        kept = max(int((before < options.top_p).sum()), 1)
        probabilities, ids = probabilities[:kept], ids[:kept]
    return probabilities, ids
