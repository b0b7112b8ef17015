"""True or false, by the plain base: one forward pass behind a prefix that is kept.

With a probe the pass ends at the probe's layer, and before what all prompts of a task end with: a
token never hears of those behind it. Without one the words true and false are asked for.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

import torch

from sovl_daemon.engine.chat import ChatTokenizer
from sovl_daemon.engine.decode import PREFILL_CHUNK
from sovl_daemon.engine.errors import CacheError, NonFiniteLogitsError, OptionError, StateError
from sovl_daemon.engine.message import Message
from sovl_daemon.engine.model import LoadedModel
from sovl_daemon.engine.prefix_cache import PrefixCache, common_length
from sovl_daemon.engine.probe import Probe, unit
from sovl_daemon.engine.shallow import Shallow
from sovl_daemon.engine.span import Span

_KEPT_BYTES = 32 << 20  # a task's prefix of the default model takes some two of them
_TRUE = ("true", "True", "TRUE")
_FALSE = ("false", "False", "FALSE")

By = Literal["probe", "words"]


class Verdicts(NamedTuple):
    """Probabilities of the two answers among all there are, and how much was read for them.

    `band` is half the width of the band around 0.5 in which the probe abstains.
    """

    p_true: float
    p_false: float
    read_tokens: int
    by: By = "words"
    band: float = 0.0


class Asked(NamedTuple):
    """A prompt in tokens; what is not in every prompt of its task lies from `start` to `end`."""

    ids: Sequence[int]
    start: int
    end: int


class Share(NamedTuple):
    """What a piece of the prompt adds to the logit of true."""

    text: str
    logit: float


def asked(tokenizer: ChatTokenizer, prefix: str, text: str, ending: str, limit: int) -> Asked:
    """Lay out a prompt as the user's message, in `limit` tokens at most.

    Raises:
        OptionError: the chat template refuses the prompt.
        PromptTooLongError: it does not fit.

    """
    ids = tokenizer.encode([Message("user", prefix + text + ending)], limit)
    around = tokenizer.encode([Message("user", prefix + ending)], limit)
    start = common_length(ids, around)
    behind = common_length(ids[:start:-1], around[:start:-1])
    return Asked(ids, start, len(ids) - behind)


class Bench:
    """Where the base judges. Nothing steers it there, so it is the frozen base alone.

    Use it from the tensor thread only.
    """

    def __init__(self, model: LoadedModel, tokenizer: ChatTokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._kept = PrefixCache(model, _KEPT_BYTES)
        self._true = _first_tokens(tokenizer, _TRUE)
        self._false = _first_tokens(tokenizer, _FALSE) - self._true
        self._true -= _first_tokens(tokenizer, _FALSE)
        self._reader: Reader | None = None
        self._probe: Probe | None = None

    def use(self, probe: Probe | None) -> None:
        """Judge by a probe from now on, or by words.

        Raises:
            OptionError: the model has no such layer.
            StateError: its hidden states have another width.

        """
        if probe is not None and len(probe.weight) != self._model.width:
            raise StateError(
                f"the probe of {probe.card.model} reads {len(probe.weight)} numbers a token, the "
                f"model has {self._model.width}: fit one for it with sovl judge fit"
            )
        self._reader = Reader(self._model, probe.card.layer) if probe is not None else None
        self._probe = probe

    def judge(self, prompt: Asked, by: By = "probe") -> Verdicts:
        """Read a prompt; what it begins with is kept for the next one.

        Raises:
            NonFiniteLogitsError: the model gives no distribution.

        """
        if by == "words" or self._reader is None or self._probe is None:
            return self._in_words(prompt)
        hidden, read = self._reader.read(prompt)
        p_true = self._probe.probability(hidden)
        if p_true != p_true:
            raise NonFiniteLogitsError("the hidden states that the probe reads are no numbers")
        return Verdicts(p_true, 1.0 - p_true, read, "probe", self._probe.card.band)

    def explain(self, prompt: Asked) -> tuple[Verdicts, list[Share]]:
        """Judge by the probe, and say what each line of the prompt adds to the logit.

        The shares and the bias, which is the last of them, sum up to the logit exactly.

        Raises:
            OptionError: there is no probe.

        """
        if self._reader is None or self._probe is None:
            raise OptionError("there is no probe for this model: run sovl judge fit")
        hidden, _ = self._reader.read(prompt)
        logits = self._probe.by_token(hidden).tolist()
        shares = self._lines(prompt.ids[prompt.start : prompt.end], logits)
        return self.judge(prompt), [*shares, Share("(always)", self._probe.bias)]

    def _lines(self, ids: Sequence[int], logits: Sequence[float]) -> list[Share]:
        shares: list[Share] = []
        begin = 0
        for place in range(len(ids)):
            text = self._tokenizer.decode(ids[begin : place + 1])
            if "\n" in text or place == len(ids) - 1:
                shares.append(Share(text.strip("\n"), sum(logits[begin : place + 1])))
                begin = place + 1
        return shares

    def _in_words(self, prompt: Asked) -> Verdicts:
        ids = prompt.ids
        cache, stamp = self._kept.take(ids), self._kept.stamp
        known = cache.length
        while cache.length < len(ids):
            chunk = ids[cache.length : cache.length + PREFILL_CHUNK]
            logits = self._model.forward([Span(chunk, cache)])
        with suppress(CacheError):  # then the next prompt is read from its start
            cache.truncate(prompt.start)
            self._kept.keep(ids[: prompt.start], cache, stamp)
        chances = torch.softmax(logits[0].float(), dim=-1)
        if not bool(chances.isfinite().all()):
            raise NonFiniteLogitsError("the judge's logits are no distribution")
        p_true, p_false = (float(chances[sorted(ids_)].sum()) for ids_ in (self._true, self._false))
        return Verdicts(p_true, p_false, len(ids) - known)


class Reader:
    """Reads prompts down to a layer, what they begin with once."""

    def __init__(self, model: LoadedModel, layer: int, keep_bytes: int = _KEPT_BYTES) -> None:
        self._model = Shallow(model, layer)
        self._kept = PrefixCache(self._model, keep_bytes)

    def read(self, prompt: Asked) -> tuple[torch.Tensor, int]:
        """Return the hidden states (T, hidden) of a prompt's own tokens, and how many were read."""
        ids = prompt.ids[: prompt.end]
        cache = self._kept.take(ids)
        cache.truncate(prompt.start)
        known = cache.length
        parts = []
        while cache.length < len(ids):
            chunk = ids[cache.length : cache.length + PREFILL_CHUNK]
            parts.append(self._model.read(chunk, cache))
        with suppress(CacheError):  # then the next prompt is read from its start
            cache.truncate(prompt.start)
            self._kept.keep(ids[: prompt.start], cache, self._kept.stamp)
        return torch.cat(parts)[prompt.start - known :], len(ids) - known

    def features(self, prompt: Asked) -> torch.Tensor:
        """What a probe is fitted on: the mean (hidden,) of its own tokens' unit states."""
        return unit(self.read(prompt)[0]).mean(0)


def _first_tokens(tokenizer: ChatTokenizer, words: Sequence[str]) -> set[int]:
    """What an answer with one of the words may begin with, after a space or without one."""
    texts = [space + word for word in words for space in ("", " ")]
    return {ids[0] for text in texts if (ids := tokenizer.encode_text(text))}
