"""Texts that the plain base writes for itself, many side by side."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sovl_daemon.engine.learning.sample import Ids
from sovl_daemon.engine.model.kv_cache import Span

TOGETHER = 16


def sample_texts(
    model: Any, prompts: Sequence[Ids], tokens: int, *, stop_ids: frozenset[int], seed: int
) -> Iterator[list[list[int]] | None]:
    """Go on from each prompt by up to `tokens` tokens, sampled from the model's own distribution.

    An iterator for the tensor thread: a step reads one token of sixteen texts and yields None, the
    last one yields all texts. Nothing steers the model meanwhile. A text ends with a stop token, or
    where the model knows no more positions; of a prompt that leaves no room, the end is read.
    """
    if (limit := model.max_context) is not None:
        room = max(limit - tokens, limit // 2, 1)
        prompts = [prompt[-room:] for prompt in prompts]
    rng = torch.Generator().manual_seed(seed)
    texts: list[list[int]] = []
    for start in range(0, len(prompts), TOGETHER):
        some: list[list[int]] = [[] for _ in prompts[start : start + TOGETHER]]
        for _ in _go_on(model, prompts[start : start + TOGETHER], some, tokens, stop_ids, rng):
            yield None
        texts += some
    yield texts


def _go_on(
    model: Any,
    prompts: Sequence[Ids],
    texts: list[list[int]],
    tokens: int,
    stop_ids: frozenset[int],
    rng: Any,
) -> Iterator[None]:
    """Add a token to each of the texts that go on from the prompts, at each step."""
    caches = [model.new_cache() for _ in prompts]
    news: list[Sequence[int]] = list(prompts)
    live = list(range(len(prompts)))
    for _ in range(tokens):
        if not live:
            return
        logits = model.forward([Span(news[place], caches[place]) for place in live]).float()
        chosen = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=rng)[:, 0].tolist()
        for place, id_ in zip(live, chosen, strict=True):
            texts[place].append(id_)
            news[place] = [id_]
        live = [
            place
            for place, id_ in zip(live, chosen, strict=True)
            if id_ not in stop_ids and caches[place].length != model.max_context
        ]
        yield
