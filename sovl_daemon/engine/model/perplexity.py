"""How well a model foretells a text, in whatever precision its weights are held."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from sovl_daemon.engine.errors import NonFiniteLogitsError, OptionError
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.model import LoadedModel

WINDOW = 512

# Logits of a large vocabulary are large: so many positions at once, in 32 bits.
_ROWS = 128


@dataclass(frozen=True, slots=True)
class PerplexityEstimate:
    """How far a text is read: `done` of `total` windows with `tokens` tokens, and how well."""

    done: int
    total: int
    tokens: int
    perplexity: float


def perplexity(
    model: LoadedModel, ids: Sequence[int], *, window: int = WINDOW
) -> Iterator[PerplexityEstimate]:
    """Read a text window by window; yield the perplexity of all that is read after each.

    Perplexity is exp of the mean negative log likelihood of each token but the first of its
    window, by the model's own distribution. The text `ids` is cut into windows of `window` tokens,
    or as many as the model can hold if that is less, and each is read from its own beginning; the
    last may be shorter. Losses are summed in 32 bits or more. Leaving the iteration ends the work;
    between two windows the model may be used for other things. It is the base's own perplexity:
    what steers the model hears nothing of the text, so it leaves each window as it is.

    Raises:
        OptionError: fewer than two tokens, or windows of fewer.
        NonFiniteLogitsError: the model gives no distribution.

    """
    length = min(window, model.max_context or window)
    starts = range(0, len(ids) - 1, max(length, 1))
    if length < 2 or not starts:
        raise OptionError(
            f"{len(ids)} tokens in windows of {length} have no perplexity: give 2 or more of both"
        )
    loss, foretold = 0.0, 0
    for done, start in enumerate(starts, 1):
        part = ids[start : start + length]
        loss += _loss(model, part)
        foretold += len(part) - 1
        try:
            value = math.exp(loss / foretold)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise NonFiniteLogitsError(
                f"a loss of {loss / foretold} a token is no measure: the model's weights are "
                "damaged or the number format is too narrow for it; try another precision"
            )
        yield PerplexityEstimate(done, len(starts), foretold + done, value)


def _loss(model: LoadedModel, ids: Sequence[int]) -> float:
    """Return the sum of the negative log likelihoods of all tokens but the first."""
    with torch.inference_mode():
        rows: Iterable[torch.Tensor]  # logits (rows, vocab) behind each position but the last
        if model.lean is not None:
            hidden, _ = model.lean.read([Span(ids, model.lean.new_cache())])
            states = model.lean.norm(hidden)[:-1]
            rows = (model.lean.head.matrix(some) for some in states.split(_ROWS))
        else:
            input_ids = torch.tensor([ids], device=model.device)  # (1, T)
            rows = model.network(input_ids=input_ids, use_cache=False).logits[0, :-1].split(_ROWS)
        targets = torch.tensor(ids[1:], device=model.device).split(_ROWS)
        return sum(
            float(functional.cross_entropy(logits.float(), target, reduction="sum"))
            for logits, target in zip(rows, targets, strict=True)
        )
