"""True or false, by the plain base: one forward pass behind a prefix that is kept."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch

from sovl_daemon.engine.chat import ChatTokenizer
from sovl_daemon.engine.decode import PREFILL_CHUNK
from sovl_daemon.engine.errors import CacheError, NonFiniteLogitsError
from sovl_daemon.engine.language_model import LanguageModel
from sovl_daemon.engine.prefix_cache import PrefixCache
from sovl_daemon.engine.span import Span

_KEPT_BYTES = 32 << 20  # a task's prefix of the default model takes some two of them
_TRUE = ("true", "True", "TRUE")
_FALSE = ("false", "False", "FALSE")


class Verdicts(NamedTuple):
    """Probabilities of the two answers among all tokens, and how much was read for them."""

    p_true: float
    p_false: float
    read_tokens: int


class Bench:
    """Where the base judges. Nothing steers it there, so it is the frozen base alone.

    Use it from the tensor thread only.
    """

    def __init__(self, model: LanguageModel, tokenizer: ChatTokenizer) -> None:
        self._model = model
        self._kept = PrefixCache(model, _KEPT_BYTES)
        self._true = _first_tokens(tokenizer, _TRUE)
        self._false = _first_tokens(tokenizer, _FALSE) - self._true
        self._true -= _first_tokens(tokenizer, _FALSE)

    def judge(self, ids: Sequence[int], prefix: int) -> Verdicts:
        """Read a prompt, of which the first `prefix` tokens are kept for the next one.

        Raises:
            NonFiniteLogitsError: the model gives no distribution.

        """
        cache, stamp = self._kept.take(ids), self._kept.stamp
        known = cache.length
        while cache.length < len(ids):
            chunk = ids[cache.length : cache.length + PREFILL_CHUNK]
            logits = self._model.forward([Span(chunk, cache)])
        with suppress(CacheError):  # then the next prompt is read from its start
            cache.truncate(prefix)
            self._kept.keep(ids[:prefix], cache, stamp)
        chances = torch.softmax(logits[0].float(), dim=-1)
        if not bool(chances.isfinite().all()):
            raise NonFiniteLogitsError("the judge's logits are no distribution")
        p_true, p_false = (float(chances[sorted(ids_)].sum()) for ids_ in (self._true, self._false))
        return Verdicts(p_true, p_false, len(ids) - known)


def _first_tokens(tokenizer: ChatTokenizer, words: Sequence[str]) -> set[int]:
    """What an answer with one of the words may begin with, after a space or without one."""
    texts = [space + word for word in words for space in ("", " ")]
    return {ids[0] for text in texts if (ids := tokenizer.encode_text(text))}
