import torch

from sovl_daemon.engine.kv_cache import KeyValueCache


def cache(limit: int | None = None) -> KeyValueCache:
    return KeyValueCache(2, 3, 4, torch.empty(0), limit)


def test_what_is_appended_comes_back_in_order() -> None:
    store = cache()
    new = torch.randn(150, 6, 4)
    for part in new.split([1, 70, 79]):
        for layer in (0, 1):
            keys, values = store.append(layer, part + layer)
        store.advance(len(part))
    assert torch.equal(keys, new.transpose(0, 1)[:3] + 1)
    assert torch.equal(values, new.transpose(0, 1)[3:] + 1)


def test_memory_grows_in_powers_of_two_up_to_the_limit() -> None:
    store = cache(limit=300)
    capacities = []
    for count in (1, 64, 100, 130, 5):
        store.append(0, torch.zeros(count, 6, 4))
        store.advance(count)
        capacities.append(store._layers[0].shape[1])
    assert capacities == [64, 128, 256, 300, 300]
    assert store._layers[1].shape[1] == 0


def test_what_did_not_advance_is_overwritten() -> None:
    store = cache()
    store.append(0, torch.ones(3, 6, 4))
    keys, _ = store.append(0, torch.zeros(2, 6, 4))
    assert (keys.shape, float(keys.sum())) == ((3, 2, 4), 0)
