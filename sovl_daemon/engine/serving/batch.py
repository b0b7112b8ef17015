"""Answers that advance together: one forward pass reads the new tokens of all of them."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import torch

from sovl_daemon.engine.errors import EngineOutOfMemoryError, is_out_of_memory, settled
from sovl_daemon.engine.model.kv_cache import Cache, Span
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.sampling import Choice, choose
from sovl_daemon.engine.serving.token_sequence import Token, TokenSequence


class LanguageModel(Protocol):
    """A cache for each conversation, and the logits behind what was read last."""

    @property
    def stamp(self) -> Hashable:
        """Whatever else but the ids decides what a cache holds; another stamp, other caches."""

    def new_cache(self) -> Cache:
        """Return an empty key-value cache for one sequence."""

    def listen(self, prompt: Sequence[int], cache: Cache, *, since: int) -> None:
        """Let what steers the model read a prompt first, whose last position is `since`."""

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        """Read each span after what its cache holds; return the next tokens' logits, (B, vocab).

        A pass that fails leaves the caches as they were.
        """


T = TypeVar("T")
Outcome = Token | BaseException


def advance(
    model: LanguageModel, caches: PrefixCache, sequences: Iterable[TokenSequence]
) -> dict[TokenSequence, Outcome]:
    """Take one step of all sequences together; return what came of those that took part.

    An error is of its sequence alone.
    """
    outcomes: dict[TokenSequence, Outcome] = {}
    spans: dict[TokenSequence, Span] = {}
    ready: dict[TokenSequence, torch.Tensor] = {}
    for sequence in taking_part(sequences):
        span = _once(caches, partial(_next, model, sequence))
        if isinstance(span, EngineOutOfMemoryError):  # now there may be some
            span = _once(caches, partial(_next, model, sequence))
        if isinstance(span, BaseException):
            outcomes[sequence] = span
        else:
            spans[sequence] = span
    for sequence, row in zip(spans, read(model, caches, list(spans.values())), strict=True):
        if isinstance(row, BaseException):
            outcomes[sequence] = row
        elif sequence.is_read:
            ready[sequence] = row
    if ready:
        logits = torch.stack(list(ready.values()))
        choices = choose(logits, [each.sampler for each in ready], [each.ids for each in ready])
        for sequence, choice in zip(ready, choices, strict=True):
            outcomes[sequence] = sequence.push(choice) if isinstance(choice, Choice) else choice
    return outcomes


def taking_part(sequences: Iterable[TokenSequence]) -> list[TokenSequence]:
    """Return all whose answer has begun, and the first that still reads its prompt.

    One chunk of one prompt a step, so that nobody's next token waits long.
    """
    known = list(sequences)
    prefilling = [sequence for sequence in known if sequence.is_prefilling]
    return [sequence for sequence in known if not sequence.is_prefilling] + prefilling[:1]


def read(
    model: LanguageModel, caches: PrefixCache, spans: Sequence[Span]
) -> Sequence[torch.Tensor | BaseException]:
    """Return the logits (vocab,) behind each span, or why there are none.

    Where the shared pass fails, each span is tried alone; if it was for want of memory, with that
    which `caches` kept.
    """
    if not spans:
        return []
    rows = _once(caches, partial(model.forward, spans))
    if not isinstance(rows, BaseException):
        return list(rows.unbind(0))
    # Whose fault it is shows when each is alone.
    alone = [_once(caches, partial(model.forward, [span])) for span in spans]
    return [row if isinstance(row, BaseException) else row[0] for row in alone]


def _next(model: LanguageModel, sequence: TokenSequence) -> Span:
    """Return what to read next, after what steers the model has heard of it."""
    span = sequence.next_span()
    if sequence.is_prefilling:
        heard = sequence.ids[: span.cache.length + len(span.ids)]
        model.listen(heard, span.cache, since=sequence.prompt_end)
    return span


def _once(caches: PrefixCache, work: Callable[[], T]) -> T | BaseException:
    """Return what comes of `work`, an error too; want of memory frees what `caches` kept."""
    try:
        return work()
    except Exception as error:  # Whatever it is, others need not suffer from it.
        if is_out_of_memory(error):
            caches.clear()
        return settled(error)
