import gc
import weakref

import pytest
import torch

from sovl_daemon.engine.errors import CacheError
from sovl_daemon.engine.model.kv_cache import KeyValueCache, NetworkCache, shared_pack
from tests.unit.engine_tiny import read, tiny_model, tiny_network

LAYERS, HEADS, SIZE = 2, 6, 4


def cache(count: int = 0, limit: int | None = None, fill: float = 1) -> KeyValueCache:
    made = KeyValueCache(torch.empty(LAYERS, 1, HEADS, 0, SIZE), limit)
    if count:
        grow(made, count, fill)
    return made


def grow(store: KeyValueCache, count: int, fill: float = 1) -> None:
    store.reserve(count)
    store.pack[:, store.row, :, store.length : store.length + count] = fill
    store.advance(count)


def held(store: KeyValueCache) -> torch.Tensor:
    return store.pack[:, store.row, :, : store.length]


def test_memory_grows_in_powers_of_two_up_to_the_limit() -> None:
    store = cache(limit=300)
    capacities = []
    for count in (1, 64, 100, 130, 5):
        grow(store, count, count)
        capacities.append(store.capacity)
    assert capacities == [64, 128, 256, 300, 300]
    expected = torch.cat([torch.full((count,), float(count)) for count in (1, 64, 100, 130, 5)])
    assert torch.equal(held(store), expected[:, None].expand(LAYERS, HEADS, -1, SIZE))


def test_bytes_are_those_of_keys_and_values() -> None:
    store = cache(257)
    assert store.nbytes == LAYERS * HEADS * SIZE * 512 * 4
    store.compact()
    assert store.nbytes == LAYERS * HEADS * SIZE * 512 * 4
    store.truncate(65)
    store.compact()
    assert store.nbytes == LAYERS * HEADS * SIZE * 128 * 4
    shared_pack([cache(3), other := cache(3)])
    assert other.nbytes == LAYERS * HEADS * SIZE * 64 * 4


def test_caches_are_put_together_once() -> None:
    stores = [cache(3, fill=1), cache(5, fill=2), cache(9, fill=3)]
    pack = shared_pack(stores)
    assert pack.shape == (LAYERS, 3, HEADS, 64, SIZE)
    assert shared_pack(stores) is pack
    for fill, store in enumerate(stores, 1):
        assert bool((held(store) == fill).all())
    assert float(pack.sum()) == (3 * 1 + 5 * 2 + 9 * 3) * LAYERS * HEADS * SIZE


@pytest.mark.parametrize("rows", [[0, 1], [1, 2], [2], [2, 1, 0]])
def test_others_together_are_others(rows: list[int]) -> None:
    stores = [cache(3, fill=fill) for fill in (1, 2, 3)]
    before = shared_pack(stores)
    left = [stores[row] for row in rows]
    pack = shared_pack(left)
    assert pack is not before
    assert pack[0, :, 0, 0, 0].tolist() == [row + 1 for row in rows]


def test_a_cache_left_alone_lets_go_of_the_others() -> None:
    stores = [cache(3), cache(3)]
    pack = weakref.ref(shared_pack(stores))
    shared_pack(stores[:1])
    del stores[1]
    gc.collect()
    assert pack() is None


def test_forks_do_not_hear_of_each_other() -> None:
    store = cache(20, fill=1)
    forks = [store.fork(10), store.fork(10), store.fork(30)]
    assert [fork.length for fork in forks] == [10, 10, 20]
    for fill, fork in enumerate(forks, 2):
        grow(fork, 5, fill)
    grow(store, 5, 9)
    assert [held(fork)[0, 0, :, 0].tolist() for fork in forks] == [
        [1] * 10 + [2] * 5,
        [1] * 10 + [3] * 5,
        [1] * 20 + [4] * 5,
    ]
    assert held(store)[0, 0, :, 0].tolist() == [1] * 20 + [9] * 5


def test_a_truncated_fork_leaves_its_origin_alone() -> None:
    store = cache(20, fill=1)
    fork = store.fork(10)
    fork.truncate(5)
    grow(fork, 10, 2)
    assert bool((held(store) == 1).all())


def test_a_network_cache_forgets_what_a_failed_pass_left() -> None:
    model = tiny_model("gpt2")
    store = model.new_cache()
    assert isinstance(store, NetworkCache)
    read(model, [1, 2, 3], store)
    expected = read(model, [1, 2, 3, 4])
    block = model.network.transformer.h[1]
    handle = block.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(model, [9, 9], store)
    handle.remove()
    assert [layer.get_seq_length() for layer in store.dynamic.layers] == [5, 3]
    assert store.length == 3
    torch.testing.assert_close(read(model, [4], store), expected)


def test_a_network_cache_forks_and_counts_its_bytes() -> None:
    model = tiny_model("gpt2")
    store = model.new_cache()
    read(model, [1, 2, 3, 4], store)
    assert store.nbytes == 2 * 2 * 4 * 32 * 4  # layers, keys and values, tokens, width, bytes
    fork = store.fork(2)
    torch.testing.assert_close(read(model, [7], fork), read(model, [1, 2, 7]))
    assert (store.length, fork.length) == (4, 3)
    store.compact()
    torch.testing.assert_close(read(model, [5], store), read(model, [1, 2, 3, 4, 5]))


def test_a_cache_that_cannot_forget_says_so() -> None:
    config = tiny_network("gpt2").config
    config.layer_types = ["sliding_attention", "sliding_attention"]
    config.sliding_window = 4
    store = NetworkCache(config)
    for layer in range(2):
        new = torch.ones(1, 4, 6, 8)
        store.dynamic.update(new, new, layer)
    store.advance(6)
    assert store.fork(6).length == 6
    with pytest.raises(CacheError, match="cannot forget its last 2 positions"):
        store.fork(4)
