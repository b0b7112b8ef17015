from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sovl_daemon.engine.errors import EngineOutOfMemoryError, NonFiniteLogitsError
from sovl_daemon.engine.model.kv_cache import Cache, Span
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.serving.batch import Outcome, advance, taking_part
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.token_sequence import Token, TokenSequence
from tests.unit.engine_tiny import generated, tiny_model

FAMILIES = ["gpt2", "llama"]
COUNT = 20


def prompt(index: int) -> list[int]:
    """From 1 to 77 tokens, so that caches of two capacities are side by side."""
    generator = torch.Generator().manual_seed(index)
    return [int(id_) for id_ in torch.randint(1, 384, (1 + 4 * index,), generator=generator)]


@cache
def model(family: str) -> LoadedModel:
    return tiny_model(family)


@cache
def expected(family: str, index: int) -> list[int]:
    return generated(model(family).network, prompt(index), 24, eos_token_id=None)


def decoding(family: str, index: int, count: int = 24, **options: float) -> TokenSequence:
    sampling = SamplingOptions(**{"temperature": 0, **options}, max_new_tokens=count)  # type: ignore[arg-type]
    return TokenSequence(
        PrefixCache(model(family)),
        prompt(index),
        sampling,
        stop_ids=frozenset(),
        context_length=128,
        prefill_chunk=32,
    )


class Damaged:
    """A model without memory for more than `most` tokens at once, or for spans in `refused`."""

    def __init__(self, whole: LoadedModel, most: int = 10**6) -> None:
        self.most = most
        self.refused: list[Cache] = []
        self.passes: list[int] = []
        self._whole = whole

    @property
    def stamp(self) -> Hashable:
        return self._whole.stamp

    def new_cache(self) -> Cache:
        return self._whole.new_cache()

    def listen(self, prompt: Sequence[int], cache: Any, *, since: int) -> None:
        pass

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        self.passes.append(len(spans))
        logits = self._whole.forward(spans)
        if len(spans) > self.most or any(span.cache in self.refused for span in spans):
            for span in spans:  # As if it had failed in the last layer.
                span.cache.length -= len(span.ids)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits


def together(
    running: list[TokenSequence], whole: LoadedModel | Damaged
) -> dict[TokenSequence, list[Outcome]]:
    """Run all to the end, errors too."""
    caches = PrefixCache(model("llama"))
    made: dict[TokenSequence, list[Outcome]] = {each: [] for each in running}
    while running:
        for each, outcome in advance(whole, caches, running).items():
            made[each].append(outcome)
            if each.finish_reason or isinstance(outcome, BaseException):
                running.remove(each)
    return made


def ids(outcomes: Sequence[Outcome]) -> list[int]:
    return [outcome.id for outcome in outcomes if isinstance(outcome, Token)]


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_at_once_answer_as_generate_does(family: str) -> None:
    running = [decoding(family, index) for index in range(COUNT)]
    made = together(list(running), model(family))
    for index, each in enumerate(running):
        assert ids(made[each]) == expected(family, index)


@pytest.mark.parametrize("family", FAMILIES)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, COUNT - 1), st.integers(0, 6), st.integers(1, 24)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=25)
def test_coming_and_going_changes_no_answer(
    family: str, arrivals: list[tuple[int, int, int]]
) -> None:
    """Each comes some steps after the one before it, and leaves after its number of tokens."""
    caches = PrefixCache(model(family))
    coming = [(decoding(family, index), wait, leave) for index, wait, leave in arrivals]
    made: dict[TokenSequence, list[Outcome]] = {each: [] for each, _, _ in coming}
    leaving = {each: leave for each, _, leave in coming}
    running: list[TokenSequence] = []
    while coming or running:
        if coming and coming[0][1] <= 0:
            running.append(coming.pop(0)[0])
        elif coming:
            coming[0] = (coming[0][0], coming[0][1] - 1, coming[0][2])
        for each, outcome in advance(model(family), caches, running).items():
            made[each].append(outcome)
        for each in [each for each in running if len(made[each]) == leaving[each]]:
            running.remove(each)
            each.close()
    for (index, _, leave), outcomes in zip(arrivals, made.values(), strict=True):
        assert ids(outcomes) == expected(family, index)[:leave]


def test_a_step_reads_one_chunk_of_one_prompt() -> None:
    running = [decoding("llama", index) for index in (0, 19, 1)]
    advance(model("llama"), PrefixCache(model("llama")), running)
    assert taking_part(running) == running[:2]
    assert [len(each.next_span().ids) for each in taking_part(running)] == [1, 32]
    for _ in range(3):
        advance(model("llama"), PrefixCache(model("llama")), running)
    assert taking_part(running) == running


def test_seeds_options_and_greed_hold_side_by_side() -> None:
    options: list[dict[str, float]] = [
        {"temperature": 2, "seed": 1, "top_p": 1},
        {"temperature": 2, "seed": 2, "top_p": 1},
        {"temperature": 1.5, "seed": 3, "top_k": 5},
        {"temperature": 0},
        {"temperature": 0, "repetition_penalty": 1.7},
    ]
    alone = []
    for option in options:
        running = decoding("llama", 3, **option)
        alone.append(ids(together([running], model("llama"))[running]))
    beside = [decoding("llama", 3, **option) for option in options]
    made = together(list(beside), model("llama"))
    assert [ids(made[each]) for each in beside] == alone
    assert len({tuple(each) for each in alone}) == len(options)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_memory_for_all_is_enough_for_each(family: str) -> None:
    running = [decoding(family, index) for index in (0, 5, 9)]
    short = Damaged(model(family), most=1)
    made = together(list(running), short)
    assert max(short.passes) == 3
    for index, each in zip((0, 5, 9), running, strict=True):
        assert ids(made[each]) == expected(family, index)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_memory_for_one_ends_that_one(family: str) -> None:
    running = [decoding(family, index) for index in (0, 5, 9)]
    short = Damaged(model(family))
    short.refused.append(running[1].next_span().cache)
    made = together(list(running), short)
    (error,) = made[running[1]]
    assert isinstance(error, EngineOutOfMemoryError)
    for index, each in ((0, running[0]), (9, running[2])):
        assert ids(made[each]) == expected(family, index)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_without_a_distribution_ends_that_one(family: str) -> None:
    class Poisoned(Damaged):
        def forward(self, spans: Sequence[Span]) -> torch.Tensor:
            logits = super().forward(spans).clone()
            for row, span in zip(logits, spans, strict=True):
                if span.cache.length == 30:  # of the prompt with 21 tokens
                    row[5] = float("nan")
            return logits

    running = [decoding(family, index) for index in (0, 5)]
    made = together(list(running), Poisoned(model(family)))
    assert ids(made[running[1]]) == expected(family, 5)[:9]
    assert isinstance(made[running[1]][-1], NonFiniteLogitsError)
    assert ids(made[running[0]]) == expected(family, 0)


def test_memory_kept_for_later_goes_first() -> None:
    caches = PrefixCache(model("llama"), max_bytes=10**6)
    kept = caches.lend(prompt(9))
    model("llama").forward([Span(prompt(9), kept)])
    caches.keep(prompt(9), kept, caches.stamp)
    assert caches.nbytes
    running = [decoding("llama", index) for index in (0, 5)]
    advance(model("llama"), caches, running)
    assert caches.nbytes
    advance(Damaged(model("llama"), most=1), caches, running)
    assert not caches.nbytes
