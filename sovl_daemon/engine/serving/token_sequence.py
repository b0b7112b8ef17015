"""One answer, step by step; it knows token ids only."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.model.kv_cache import Cache, Span
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.sampling import Choice, TokenSampler

FinishReason = Literal["stop", "length", "repetition", "cancelled"]

# Short enough that another conversation's next token does not wait long behind a prompt.
PREFILL_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token.

    `probability` is the likeliest token's in the model's own distribution, `at` the time it was
    made (time.perf_counter), `finish_reason` is set on the last; with "stop" that is the stop
    token itself, which is no part of the answer.
    """

    id: int
    probability: float
    at: float
    finish_reason: FinishReason | None = None


class TokenSequence:
    """A prompt being read, then an answer being written: what to read next, and what came of it.

    `caches` lend it a cache and take it back; `stop_ids` end the answer; `context_length` bounds
    prompt and answer together. `prompt_end` is the position of the prompt's last token;
    `cached_tokens` of the prompt were not read, as their keys and values were kept.
    """

    def __init__(
        self,
        caches: PrefixCache,
        prompt: Sequence[int],
        options: SamplingOptions,
        *,
        stop_ids: frozenset[int],
        context_length: int,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        if not 0 < len(prompt) < context_length:
            raise OptionError(
                f"prompt of {len(prompt)} tokens: give from 1 to {context_length - 1}, "
                "so that an answer fits into the context"
            )
        self.finish_reason: FinishReason | None = None
        self.sampler = TokenSampler(options)
        self.ids = list(prompt)
        self.cached_tokens = 0
        self._caches = caches
        self._cache: Cache | None = None
        self._stamp = caches.stamp
        self.prompt_end = len(prompt) - 1
        self._stop_ids = stop_ids
        self._end = min(len(prompt) + options.max_new_tokens, context_length)
        self._chunk = prefill_chunk

    @property
    def is_prefilling(self) -> bool:
        """Whether the answer has not begun yet."""
        return len(self.ids) == self.prompt_end + 1

    @property
    def is_read(self) -> bool:
        """Whether all of `ids` is read, so that the logits are those of the next token."""
        return self._cache is not None and self._cache.length == len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes that its cache holds now."""
        return 0 if self._cache is None else self._cache.nbytes

    def next_span(self) -> Span:
        """Return what to read next: a chunk of the prompt, or the last token of the answer."""
        if self._cache is None:
            self._stamp = self._caches.stamp
            self._cache = self._caches.lend(self.ids)
            self.cached_tokens = self._cache.length
        start = self._cache.length
        return Span(self.ids[start : start + self._chunk], self._cache)

    def push(self, choice: Choice) -> Token:
        """Add the token that was chosen when all was read."""
        self.ids.append(choice.id)
        if choice.id in self._stop_ids:
            self.finish_reason = "stop"
        elif len(self.ids) >= self._end:
            self.finish_reason = "length"
        return Token(choice.id, choice.probability, time.perf_counter(), self.finish_reason)

    def close(self, *, keep: bool = True) -> None:
        """Give the cache back, to be kept or not; what is not finished by now is cancelled."""
        self.finish_reason = self.finish_reason or "cancelled"
        cache, self._cache = self._cache, None
        if keep and cache is not None:
            self._caches.keep(self.ids, cache, self._stamp)
