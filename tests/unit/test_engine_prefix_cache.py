from collections.abc import Hashable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.engine.errors import CacheError
from sovl_daemon.engine.model.kv_cache import Cache, KeyValueCache, Span
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.serving.batch import advance
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.prefix_cache import PrefixCache, common_length
from sovl_daemon.engine.serving.token_sequence import TokenSequence
from tests.unit.engine_tiny import generated, read, tiny_model, tokens

MB = 2**20
GREEDY = SamplingOptions(temperature=0, max_new_tokens=12)
FIRST = list(range(10, 40))


class Watched:
    """A tiny model that counts the tokens it reads; its stamp may change."""

    def __init__(self, family: str = "llama") -> None:
        self.whole = tiny_model(family)
        self.stamp: Hashable = 0
        self.read: list[int] = []

    def new_cache(self) -> Cache:
        return self.whole.new_cache()

    def listen(self, prompt: Sequence[int], cache: Any, *, since: int) -> None:
        pass

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        self.read.append(sum(len(span.ids) for span in spans))
        return self.whole.forward(spans)


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Watched:
    return Watched(request.param)


def answer(model: Watched, caches: PrefixCache, prompt: Sequence[int]) -> tuple[list[int], int]:
    """The answer's ids and how many tokens of the prompt were not read."""
    decoding = TokenSequence(caches, prompt, GREEDY, stop_ids=frozenset(), context_length=128)
    ids = [token.id for token in tokens(model, decoding)]
    return ids, decoding.cached_tokens


def alone(model: Watched, prompt: Sequence[int]) -> list[int]:
    return generated(model.whole.network, prompt, 12, eos_token_id=None)


def kept(caches: PrefixCache) -> list[list[int]]:
    """The first and the last id of each entry, the most recently used last."""
    return [[entry.ids[0], entry.ids[-1]] for entry in caches._entries]


def put(caches: PrefixCache, model: Watched | LoadedModel, ids: Sequence[int]) -> None:
    cache = model.new_cache()
    model.forward([Span(ids, cache)])
    caches.keep(ids, cache, caches.stamp)


def test_a_second_turn_reads_only_what_is_new(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    first, cached = answer(model, caches, FIRST)
    assert cached == 0
    second = [*FIRST, *first, 5, 6, 7]
    model.read.clear()
    ids, cached = answer(model, caches, second)
    # The last token of an answer is never read.
    assert cached == len(FIRST) + 11
    assert model.read[0] == 4
    assert ids == alone(model, second)


def test_an_edited_turn_reads_from_the_edit_on(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    first, _ = answer(model, caches, FIRST)
    edited = [*FIRST[:25], 7, *FIRST[26:], *first, 5]
    ids, cached = answer(model, caches, edited)
    assert cached == 25
    assert ids == alone(model, edited)


def test_the_last_token_of_a_prompt_is_always_read(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    first, _ = answer(model, caches, FIRST)
    again, cached = answer(model, caches, FIRST)
    assert (again, cached) == (first, len(FIRST) - 1)
    shorter, cached = answer(model, caches, FIRST[:20])
    assert (shorter, cached) == (alone(model, FIRST[:20]), 19)


def test_few_tokens_in_common_are_none(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    answer(model, caches, FIRST)
    _, cached = answer(model, caches, [*FIRST[:15], 7, 8])
    assert cached == 0
    _, cached = answer(model, caches, [*FIRST[:16], 7, 8])
    assert cached == 16


def test_the_longest_common_prefix_is_taken(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    for end in (18, 25, 20):
        put(caches, model, [*FIRST[:end], 300 + end])
    assert caches.lend([*FIRST, 1]).length == 25


def test_conversations_with_one_system_prompt_do_not_take_from_each_other(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    system = FIRST[:20]
    histories = [[*system, *range(100 + 40 * n, 124 + 40 * n)] for n in range(3)]
    for turn in range(3):
        for history in histories:
            _, cached = answer(model, caches, history)
            assert cached >= (len(history) - 20 if turn else 0)
            history += alone(model, history)
            history += [3, 4]
    assert len(caches._entries) == 3


def test_what_is_taken_is_lent_to_one(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    put(caches, model, FIRST)
    first, second = caches.lend([*FIRST, 1]), caches.lend([*FIRST, 2])
    assert (first.length, second.length) == (30, 0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_conversations_side_by_side_share_a_prefix_and_answer_as_if_alone(family: str) -> None:
    model = Watched(family)
    caches = PrefixCache(model, MB)
    put(caches, model, [*FIRST[:20], *range(100, 140)])
    prompts = [[*FIRST[:20], 7, 8], [*FIRST[:20], 9], [*FIRST[:20], 7, 11, 12]]
    decodings = [
        TokenSequence(caches, prompt, GREEDY, stop_ids=frozenset(), context_length=128)
        for prompt in prompts
    ]
    while running := [each for each in decodings if each.finish_reason is None]:
        advance(model, caches, running)
    for prompt, each in zip(prompts, decodings, strict=True):
        assert each.cached_tokens == 20
        assert each.ids[len(prompt) :] == alone(model, prompt)


def test_the_least_recently_used_goes_first() -> None:
    model = tiny_model()
    caches = PrefixCache(model, MB)
    for start in (20, 60, 100):
        put(caches, model, range(start, start + 30))
    assert kept(caches) == [[20, 49], [60, 89], [100, 129]]
    one = caches.nbytes // 3
    cache = caches.lend([*range(20, 50), 1])
    caches.keep([*range(20, 50)], cache, 0)
    caches.resize(2 * one)
    assert kept(caches) == [[100, 129], [20, 49]]
    put(caches, model, range(200, 230))
    assert kept(caches) == [[20, 49], [200, 229]]
    assert caches.nbytes == 2 * one
    caches.resize(one)
    put(caches, model, range(100))  # more than all that may be kept
    assert (kept(caches), caches.nbytes) == ([], 0)


def test_an_entry_takes_at_most_twice_the_memory_of_its_tokens() -> None:
    model = tiny_model()
    caches = PrefixCache(model, MB)
    put(caches, model, range(65))
    assert caches.nbytes == 128 * 2 * 2 * 2 * 8 * 4  # tokens, layers, keys and values, heads, size


def test_the_next_turn_goes_on_in_the_same_memory() -> None:
    model = tiny_model()
    caches = PrefixCache(model, MB)
    put(caches, model, range(65))
    pack = caches._entries[0].cache.pack  # type: ignore[attr-defined]
    cache = caches.lend([*range(60), 1, 2])
    read(model, [1, 2], cache)
    assert isinstance(cache, KeyValueCache)
    assert cache.pack is pack
    assert cache.length == 62


def test_a_fork_does_not_hear_of_the_next_turn() -> None:
    model = tiny_model()
    caches = PrefixCache(model, MB)
    put(caches, model, range(65))
    fork = caches.lend([*range(30), 1])  # the rest is left for others
    cache = caches.lend([*range(60), 2])
    cache.truncate(20)
    read(model, [3] * 20, cache)
    torch.testing.assert_close(read(model, [1], fork), read(model, [*range(30), 1]))


def test_what_another_begins_with_is_not_kept_twice(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    put(caches, model, FIRST)
    put(caches, model, [*FIRST, 5, 6])
    put(caches, model, [*FIRST, 5, 6])
    assert kept(caches) == [[10, 6]]


@pytest.mark.parametrize("max_bytes", [0, 100])
def test_nothing_is_kept_where_nothing_may_be(model: Watched, max_bytes: int) -> None:
    caches = PrefixCache(model, max_bytes)
    put(caches, model, FIRST)
    assert caches.lend([*FIRST, 1]).length == 0
    assert caches.nbytes == 0


def test_what_was_read_under_another_stamp_is_dropped(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    put(caches, model, FIRST)
    model.stamp = "another"
    assert caches.lend([*FIRST, 1]).length == 0
    model.stamp = 0
    assert caches.lend([*FIRST, 1]).length == 0


def test_an_answer_that_the_stamp_changed_under_is_not_kept(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    decoding = TokenSequence(caches, FIRST, GREEDY, stop_ids=frozenset(), context_length=128)
    model.forward([decoding.next_span()])
    model.stamp = 1
    decoding.close()
    assert caches.nbytes == 0


def test_a_cancelled_answer_is_kept_up_to_where_it_came(model: Watched) -> None:
    caches = PrefixCache(model, MB)
    decoding = TokenSequence(
        caches, FIRST, GREEDY, stop_ids=frozenset(), context_length=128, prefill_chunk=20
    )
    model.forward([decoding.next_span()])
    decoding.close()
    assert kept(caches) == [[10, 29]]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_no_memory_to_keep_an_answer_is_no_error(model: Watched, error: Exception) -> None:
    class Full:
        length, memory = 30, None

        def compact(self) -> None:
            raise error

    caches = PrefixCache(model, MB)
    put(caches, model, FIRST)
    full: Any = Full()
    caches.keep(range(300, 330), full, 0)
    assert caches.nbytes == 0


def test_a_cache_that_cannot_forget_is_dropped(model: Watched) -> None:
    class Rigid:
        length, nbytes, memory = 40, 1, None
        tried = 0

        def compact(self) -> None:
            pass

        def truncate(self, length: int) -> None:
            self.tried += 1
            raise CacheError(str(length))

    rigid: Any = Rigid()
    caches = PrefixCache(model, MB)
    put(caches, model, FIRST)
    caches.keep([*FIRST, *range(300, 310)], rigid, 0)
    put(caches, model, [*FIRST[:25], 1])
    assert caches.lend([*FIRST, 300, 301]).length == 25
    assert rigid.tried == 1
    assert caches.lend([*FIRST, 300, 301]).length == 0


def test_a_real_cache_with_a_window_is_dropped() -> None:
    model = tiny_model("gpt2")
    model.network.config.layer_types = ["sliding_attention"] * 2
    model.network.config.sliding_window = 8
    caches = PrefixCache(model, MB)
    put(caches, model, FIRST)
    cache = caches.lend([*FIRST[:20], 1])
    assert (cache.length, caches.nbytes) == (0, 0)
    read(model, FIRST, cache)


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_common_length(a: list[int], b: list[int]) -> None:
    count = common_length(a, b)
    assert a[:count] == b[:count]
    assert a[: count + 1] != b[: count + 1] or count == min(len(a), len(b))
