"""One running generation, step by step; it knows token ids only."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.options import SamplingOptions
from sovl_daemon.engine.piece import FinishReason
from sovl_daemon.engine.sampling import Sampler
from sovl_daemon.engine.span import Span

# Short enough that another conversation's next token does not wait long behind a prompt.
PREFILL_CHUNK = 128


class LanguageModel(Protocol):
    """What decoding needs from a model."""

    def new_cache(self) -> Any:
        """Return an empty key-value cache for one sequence."""

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        """Read each span after what its cache holds; return the next tokens' logits, (B, vocab)."""

    def listen(self, prompt: Sequence[int], cache: Any, *, since: int) -> None:
        """Hear of a prompt, as far as it is about to be read; its end is at position `since`."""


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


class Decoding:
    """A prompt being read, then an answer being written, one forward pass a step.

    `stop_ids` end the answer; `context_length` bounds prompt and answer together.
    """

    def __init__(
        self,
        model: LanguageModel,
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
        self._model = model
        self._ids = list(prompt)
        self._last = len(prompt) - 1
        self._read = 0
        self._cache: Any = None
        self._sampler = Sampler(options)
        self._stop_ids = stop_ids
        self._end = min(len(prompt) + options.max_new_tokens, context_length)
        self._chunk = prefill_chunk

    def step(self) -> Token | None:
        """Run one forward pass; None while there is more of the prompt to read.

        Raises:
            NonFiniteLogitsError: the model's output is not a distribution.

        """
        if self._cache is None:
            self._cache = self._model.new_cache()
        unread = self._ids[self._read : self._read + self._chunk]
        if self._read <= self._last:
            heard = self._ids[: self._read + len(unread)]
            self._model.listen(heard, self._cache, since=self._last)
        logits = self._model.forward([Span(unread, self._cache)])[0]
        self._read += len(unread)
        return self._choose(logits) if self._read == len(self._ids) else None

    def steps(self) -> Iterator[Token | None]:
        """Run to the end, one step each time the iterator is advanced; closing it cancels."""
        try:
            while self.finish_reason is None:
                yield self.step()
        finally:
            self.close()

    def close(self) -> None:
        """Free the cache; what is not finished by now is cancelled."""
        self.finish_reason = self.finish_reason or "cancelled"
        self._cache = None

    def _choose(self, logits: torch.Tensor) -> Token:
        id_, probability = self._sampler.choose(logits, self._ids)
        self._ids.append(id_)
        if id_ in self._stop_ids:
            self.finish_reason = "stop"
        elif len(self._ids) >= self._end:
            self.finish_reason = "length"
        return Token(id_, probability, time.perf_counter(), self.finish_reason)
