"""How well a model foretells a text, in whatever precision its weights are held."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from sovl_daemon.engine.errors import NonFiniteLogitsError, OptionError
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.llama import Llama
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
        yield PerplexityEstimate(done, len(starts), foretold + done, _perplexity(loss / foretold))


def _perplexity(loss: float) -> float:
    try:
        value = math.exp(loss)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise NonFiniteLogitsError(
            f"a loss of {loss} a token is no measure: the model's weights are damaged or the "
            "number format is too narrow for it; try another precision"
        )
    return value


def _loss(model: LoadedModel, ids: Sequence[int]) -> float:
    """Return the sum of the negative log likelihoods of all tokens but the first."""
    with torch.inference_mode():
        targets = torch.tensor(ids[1:], device=model.device).split(_ROWS)
        return sum(
            float(functional.cross_entropy(logits.float(), target, reduction="sum"))
            for logits, target in zip(_logits(model, ids), targets, strict=True)
        )


def _logits(model: LoadedModel, ids: Sequence[int]) -> Iterator[torch.Tensor]:
    """Yield the logits (rows, vocab) of the token after each position but the last."""
    if model.lean is not None:
        states = _states(model.lean, ids)[:-1]
        yield from (model.lean.head.matrix(rows) for rows in states.split(_ROWS))
    else:
        input_ids = torch.tensor([ids], device=model.device)  # (1, T)
        yield from model.network(input_ids=input_ids, use_cache=False).logits[0, :-1].split(_ROWS)


def _states(lean: Llama, ids: Sequence[int]) -> torch.Tensor:
    """Return the hidden states (T, hidden) that the head reads."""
    x, _ = lean.read([Span(ids, lean.new_cache())])
    return lean.norm(x)
