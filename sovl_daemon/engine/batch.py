"""Answers that advance together: one forward pass reads the new tokens of all of them."""

from collections.abc import Iterable, Sequence

import torch

from sovl_daemon.engine.decode import Decoding, Token
from sovl_daemon.engine.errors import is_out_of_memory, settled
from sovl_daemon.engine.language_model import LanguageModel
from sovl_daemon.engine.prefix_cache import PrefixCache
from sovl_daemon.engine.sampling import Choice, choose
from sovl_daemon.engine.span import Span

Outcome = Token | BaseException


def advance(
    model: LanguageModel, caches: PrefixCache, decodings: Iterable[Decoding]
) -> dict[Decoding, Outcome]:
    """Take one step of all decodings together; return what came of those that took part.

    An error is of its decoding alone.
    """
    taking = taking_part(decodings)
    rows = read(model, caches, [decoding.span() for decoding in taking])
    outcomes: dict[Decoding, Outcome] = {}
    ready: dict[Decoding, torch.Tensor] = {}
    for decoding, row in zip(taking, rows, strict=True):
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
    try:
        rows: Sequence[torch.Tensor] = model.forward(spans).unbind(0)
        return rows
    except Exception as error:  # Whose fault it is shows when each is alone.
        settled(error)
        if is_out_of_memory(error):
            caches.clear()
    return [_read_alone(model, span) for span in spans]


def _read_alone(model: LanguageModel, span: Span) -> torch.Tensor | BaseException:
    try:
        return model.forward([span])[0]
    except Exception as error:  # Whatever it is, it is this one's, and the others go on.
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
