"""Answers that advance together: one forward pass reads the new tokens of all of them."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import torch

from sovl_daemon.engine.errors import EngineOutOfMemoryError, is_out_of_memory, settled
from sovl_daemon.engine.model.kv_cache import Cache, Span
from sovl_daemon.engine.serving.decode import Decoding, Token
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.sampling import Choice, choose


class LanguageModel(Protocol):
    """A cache for each conversation, and the logits behind what was read last."""

    @property
    def stamp(self) -> Hashable:
        """Whatever else but the ids decides what a cache holds; another stamp, other caches."""

    def new_cache(self) -> Cache:
        """Return an empty key-value cache for one sequence."""

    def listen(self, prompt: Sequence[int], cache: Cache, *, since: int) -> None:
        """Hear of a prompt, as far as it is about to be read; its end is at position `since`."""

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        """Read each span after what its cache holds; return the next tokens' logits, (B, vocab).

        A pass that fails leaves the caches as they were.
        """


T = TypeVar("T")
Outcome = Token | BaseException


def advance(
    model: LanguageModel, caches: PrefixCache, decodings: Iterable[Decoding]
) -> dict[Decoding, Outcome]:
    """Take one step of all decodings together; return what came of those that took part.

    An error is of its decoding alone.
    """
    outcomes: dict[Decoding, Outcome] = {}
    spans: dict[Decoding, Span] = {}
    ready: dict[Decoding, torch.Tensor] = {}
    for decoding in taking_part(decodings):
        span = _attempt(caches, partial(_next, model, decoding))
        if isinstance(span, BaseException):
            outcomes[decoding] = span
        else:
            spans[decoding] = span
    for decoding, row in zip(spans, read(model, caches, list(spans.values())), strict=True):
        if isinstance(row, BaseException):
            outcomes[decoding] = row
        elif decoding.read:
            ready[decoding] = row
    return outcomes | _written(ready)


def taking_part(decodings: Iterable[Decoding]) -> list[Decoding]:
    """Return all whose answer has begun, and the first that still reads its prompt.

    One chunk of one prompt a step, so that nobody's next token waits long.
    """
    known = list(decodings)
    reading = [decoding for decoding in known if decoding.reading]
    return [decoding for decoding in known if not decoding.reading] + reading[:1]


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


def _next(model: LanguageModel, decoding: Decoding) -> Span:
    """Return what to read next, after what steers the model has heard of it."""
    span = decoding.span()
    if decoding.reading:
        heard = decoding.ids[: span.cache.length + len(span.ids)]
        model.listen(heard, span.cache, since=decoding.last)
    return span


def _attempt(caches: PrefixCache, work: Callable[[], T]) -> T | BaseException:
    """Try once more where there was no memory the first time."""
    result = _once(caches, work)
    again = isinstance(result, EngineOutOfMemoryError)
    return _once(caches, work) if again else result


def _once(caches: PrefixCache, work: Callable[[], T]) -> T | BaseException:
    """Return what comes of `work`, an error too; want of memory frees what `caches` kept."""
    try:
        return work()
    except Exception as error:  # Whatever it is, others need not suffer from it.
        if is_out_of_memory(error):
            caches.clear()
        return settled(error)


def _written(ready: dict[Decoding, torch.Tensor]) -> dict[Decoding, Outcome]:
    """Choose the next token of each decoding from its logits."""
    if not ready:
        return {}
    logits = torch.stack(list(ready.values()))
    choices = choose(logits, [each.sampler for each in ready], [each.ids for each in ready])
    return {
        decoding: decoding.push(choice) if isinstance(choice, Choice) else choice
        for decoding, choice in zip(ready, choices, strict=True)
    }
