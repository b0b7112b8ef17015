"""True or false, by the plain base: one forward pass behind a prefix that is kept.

With a probe the pass ends at the probe's layer, and before what all prompts of a task end with: a
token never hears of those behind it. Without one the words true and false are asked for.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch

from sovl_daemon.engine.errors import ArtifactError, CacheError, NonFiniteLogitsError, OptionError
from sovl_daemon.engine.judging.probe import PooledStates, Probe, rms_normalized, task_centre
from sovl_daemon.engine.model.kv_cache import Cache, NetworkCache, Span
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.serving.prefix_cache import PrefixCache, common_length
from sovl_daemon.engine.text.chat import ChatTokenizer
from sovl_daemon.engine.text.message import Message

_CHUNK = 512  # tokens in a pass: a short rest would cost as much as a hundred
_KEPT_BYTES = 32 << 20  # a task's prefix of the default model takes some two of them
_TRUE = ("true", "True", "TRUE")
_FALSE = ("false", "False", "FALSE")

JudgeMethod = Literal["probe", "words"]


class TruthProbabilities(NamedTuple):
    """Probabilities of the two answers among all there are, and how much was read for them.

    `band` is half the width of the band around 0.5 in which the probe abstains.
    """

    p_true: float
    p_false: float
    read_tokens: int
    by: JudgeMethod = "words"
    band: float = 0.0


class PromptParts(NamedTuple):
    """A prompt: `prefix` and `ending` are those of its task, `evidence` are lines of a log.

    The first line of the evidence says what the others are.
    """

    prefix: str
    text: str
    evidence: str = ""
    ending: str = ""


class TokenizedPrompt(NamedTuple):
    """A prompt in tokens; what is not in every prompt of its task lies from `start` to `end`.

    `lines` are where its lines begin and end, counted from `start`, each with its line break; the
    first `metrics` of them are metrics, then comes the evidence.
    """

    ids: Sequence[int]
    start: int
    end: int
    lines: Sequence[tuple[int, int]]
    metrics: int


class LineAttribution(NamedTuple):
    """What a line of the prompt adds to the logit of true."""

    text: str
    logit: float


def tokenize_prompt(tokenizer: ChatTokenizer, parts: PromptParts, limit: int) -> TokenizedPrompt:
    """Lay out a prompt as the user's message, in `limit` tokens at most.

    Raises:
        OptionError: the chat template refuses the prompt.
        PromptTooLongError: it does not fit.

    """
    ids = tokenizer.encode([Message("user", "".join(parts))], limit)
    around = tokenizer.encode([Message("user", parts.prefix + parts.ending)], limit)
    start = common_length(ids, around)
    end = len(ids) - common_length(ids[:start:-1], around[:start:-1])
    breaks = [i + 1 for i, id_ in enumerate(ids[start:end]) if "\n" in tokenizer.decode([id_])]
    metrics, evidence = parts.text.count("\n"), parts.evidence.count("\n")
    lines = list(pairwise([0, *breaks]))[: metrics + evidence]
    return TokenizedPrompt(ids, start, start + (lines[-1][1] if lines else 0), lines, metrics)


class JudgeRunner:
    """Judges prompts with the frozen base alone: nothing steers it here.

    Use it from the tensor thread only.
    """

    def __init__(self, model: LoadedModel, tokenizer: ChatTokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._kept = PrefixCache(model, _KEPT_BYTES)
        self._true = _first_tokens(tokenizer, _TRUE)
        self._false = _first_tokens(tokenizer, _FALSE) - self._true
        self._true -= _first_tokens(tokenizer, _FALSE)
        self._reader: HiddenStateReader | None = None
        self._probe: Probe | None = None

    def use(self, probe: Probe | None) -> None:
        """Judge by a probe from now on, or by words.

        Raises:
            OptionError: the model has no such layer.
            ArtifactError: its hidden states have another width.

        """
        if probe is not None and probe.weight.shape[1] != self._model.width:
            raise ArtifactError(
                f"the probe of {probe.card.model} reads {probe.weight.shape[1]} numbers a token, "
                f"the model has {self._model.width}: fit one for it with sovl judge fit"
            )
        self._reader = None
        if probe is not None:
            self._reader = HiddenStateReader(self._model, probe.card.layer)
        self._probe = probe

    def judge(
        self, prompt: TokenizedPrompt, by: JudgeMethod = "probe", task: str = ""
    ) -> TruthProbabilities:
        """Read a prompt; what it begins with is kept for the next one.

        `task` is the key of its centre, where there is one.

        Raises:
            NonFiniteLogitsError: the model gives no distribution.

        """
        if by == "words" or self._reader is None or self._probe is None:
            return self._in_words(prompt)
        found, read = self._reader.read(prompt)
        p_true = self._probe.probability(found, task)
        if p_true != p_true:
            raise NonFiniteLogitsError("the hidden states that the probe reads are no numbers")
        return TruthProbabilities(p_true, 1.0 - p_true, read, "probe", self._probe.card.band)

    def knows(self, task: str) -> bool:
        """Whether a task needs no centre any more."""
        return self._probe is None or task in self._probe.centres

    def centre(self, task: str, prompts: Sequence[TokenizedPrompt]) -> None:
        """Give the probe the centre of typical prompts of a task."""
        if self._reader is not None and self._probe is not None:
            found = [self._reader.read(prompt)[0] for prompt in prompts]
            self._probe.centres[task] = task_centre(found)

    def explain(
        self, prompt: TokenizedPrompt, task: str = ""
    ) -> tuple[TruthProbabilities, list[LineAttribution]]:
        """Judge by the probe, and say what each line of the prompt adds to the logit.

        The shares and the bias, which is the last of them, sum up to the logit exactly.

        Raises:
            OptionError: there is no probe.

        """
        if self._reader is None or self._probe is None:
            raise OptionError("there is no probe for this model: run sovl judge fit")
        found, _ = self._reader.read(prompt)
        logits = self._probe.by_line(found, task)
        texts = [
            self._tokenizer.decode(prompt.ids[prompt.start + begin : prompt.start + end]).strip()
            for begin, end in prompt.lines
        ]
        shares = [
            LineAttribution(text, logit)
            for text, logit in zip([*texts, "(always)"], logits, strict=True)
        ]
        return self.judge(prompt, task=task), shares

    def _in_words(self, prompt: TokenizedPrompt) -> TruthProbabilities:
        ids = prompt.ids
        cache, stamp = self._kept.lend(ids), self._kept.stamp
        known = cache.length
        while cache.length < len(ids):
            chunk = ids[cache.length : cache.length + _CHUNK]
            logits = self._model.forward([Span(chunk, cache)])
        with suppress(CacheError):  # then the next prompt is read from its start
            cache.truncate(prompt.start)
            self._kept.keep(ids[: prompt.start], cache, stamp)
        chances = torch.softmax(logits[0].float(), dim=-1)
        if not bool(chances.isfinite().all()):
            raise NonFiniteLogitsError("the judge's logits are no distribution")
        p_true, p_false = (float(chances[sorted(ids_)].sum()) for ids_ in (self._true, self._false))
        return TruthProbabilities(p_true, p_false, len(ids) - known)


class HiddenStateReader:
    """Reads prompts down to a layer, what they begin with once."""

    def __init__(self, model: LoadedModel, layer: int, keep_bytes: int = _KEPT_BYTES) -> None:
        self._model, self._threads = TruncatedModel(model, layer), model.threads
        self._kept = PrefixCache(self._model, keep_bytes)

    def read(self, prompt: TokenizedPrompt) -> tuple[PooledStates, int]:
        """Return what the probe needs of a prompt's own tokens, and how many tokens were read.

        Raises:
            OptionError: there are no metrics in it.

        """
        if not 0 < prompt.metrics <= len(prompt.lines):
            raise OptionError("nothing to judge: the prompt holds no metric")
        hidden, count = self.states(prompt)
        states = rms_normalized(hidden)
        sums = torch.stack([states[begin:end].sum(0) for begin, end in prompt.lines]).cpu()
        lengths = [end - begin for begin, end in prompt.lines]
        return PooledStates(sums, lengths, prompt.metrics), count

    def states(self, prompt: TokenizedPrompt) -> tuple[torch.Tensor, int]:
        """Return the hidden states (T, hidden) of its own tokens, and how many were read."""
        ids = prompt.ids[: prompt.end]
        cache = self._kept.lend(ids)
        cache.truncate(prompt.start)
        known = cache.length
        parts = []
        while cache.length < len(ids):
            chunk = ids[cache.length : cache.length + _CHUNK]
            with self._threads.working("judging", len(chunk)):
                parts.append(self._model.read(chunk, cache))
        with suppress(CacheError):  # then the next prompt is read from its start
            cache.truncate(prompt.start)
            self._kept.keep(ids[: prompt.start], cache, self._kept.stamp)
        return torch.cat(parts)[prompt.start - known :], len(ids) - known


def _first_tokens(tokenizer: ChatTokenizer, words: Sequence[str]) -> set[int]:
    """What an answer with one of the words may begin with, after a space or without one."""
    texts = [space + word for word in words for space in ("", " ")]
    return {ids[0] for text in texts if (ids := tokenizer.encode_text(text))}


class TruncatedModel:
    """A model down to `layers` blocks. Nothing steers it, so it is the frozen base alone.

    A lean model has caches for these blocks only. The network of another is run with a hook that
    ends its pass early; its caches stay empty below.

    Raises:
        OptionError: the model has no such layer.

    """

    def __init__(self, model: LoadedModel, layers: int) -> None:
        if not 1 <= layers <= model.layers:
            raise OptionError(f"layer {layers} is not allowed: give 1 to {model.layers}")
        self.layers = layers
        self._model = model
        lean = model.lean
        self._lean = lean.with_blocks(lean.blocks[:layers]) if lean is not None else None

    @property
    def stamp(self) -> int:
        """Return 0: what is read here is never out of date."""
        return 0

    def new_cache(self) -> Cache:
        """Return an empty cache for one prompt."""
        if self._lean is not None:
            return self._lean.new_cache()
        return NetworkCache(self._model.network.config)

    def read(self, ids: Sequence[int], cache: Any) -> torch.Tensor:
        """Read what follows in a prompt; return the hidden states (T, hidden), float32."""
        with torch.inference_mode():
            if self._lean is not None:
                hidden, _ = self._lean.read([Span(ids, cache)])
                return hidden.float()
            cache.settle()  # a failed pass may have left something
            found: list[torch.Tensor] = []
            block = self._model._blocks()[self.layers - 1]
            hook = block.register_forward_hook(partial(_stop, found))
            try:
                self._model.network(
                    input_ids=torch.tensor([ids], device=self._model.device),
                    past_key_values=cache.dynamic,
                    use_cache=True,
                    logits_to_keep=1,
                )
            except _DeepEnoughError:
                pass
            finally:
                hook.remove()
            cache.advance(len(ids))
            return found[0].float()


class _DeepEnoughError(Exception):
    """Ends a pass through the network."""


def _stop(found: list[torch.Tensor], block: Any, inputs: Any, output: Any) -> None:
    del block, inputs
    found.append(output[0] if isinstance(output, torch.Tensor) else output[0][0])
    raise _DeepEnoughError
