"""Keys and values of ended answers, for prompts that begin with the same tokens."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sovl_daemon.engine.errors import CacheError, is_out_of_memory
from sovl_daemon.engine.model.kv_cache import Cache

# What fewer tokens cost to read is not worth looking after.
_SHORTEST = 16


class CachingModel(Protocol):
    """What reads prompts into caches; under another stamp, other caches."""

    @property
    def stamp(self) -> Hashable:
        """Whatever else but the ids decides what a cache holds."""

    def new_cache(self) -> Cache:
        """Return an empty cache for one sequence."""


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    ids: Sequence[int]
    cache: Cache
    stamp: Hashable
    nbytes: int


class PrefixCache:
    """Lends a cache to each prompt, with as much of it as one that was given back has in common.

    Of those, the most recently used are kept, up to `max_bytes` in all. Use it from the tensor
    thread only.
    """

    def __init__(self, model: CachingModel, max_bytes: int = 0) -> None:
        self._model = model
        self._max_bytes = max_bytes
        self._entries: list[_Entry] = []  # the most recently used last

    @property
    def stamp(self) -> Hashable:
        """The model's stamp: what was read under another one is of no use."""
        return self._model.stamp

    @property
    def max_bytes(self) -> int:
        """Bytes that may be kept."""
        return self._max_bytes

    @property
    def nbytes(self) -> int:
        """Bytes that are kept; may be asked from any thread."""
        return sum(entry.nbytes for entry in tuple(self._entries))

    def resize(self, max_bytes: int) -> None:
        """Keep at most so many bytes from now on."""
        self._max_bytes = max_bytes
        self._evict()

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()

    def lend(self, prompt: Sequence[int]) -> Cache:
        """Return a cache that holds a prefix of `prompt`, without its last token at least."""
        self._entries = [entry for entry in self._entries if entry.stamp == self.stamp]
        while found := max(self._found(prompt), default=None, key=lambda each: each[0]):
            common, entry = found
            self._entries.remove(entry)
            try:
                if 2 * common < len(entry.ids):  # most of it may be another conversation's
                    cache = entry.cache.fork(common)
                    self._entries.append(entry)
                    return cache
                entry.cache.truncate(common)
            except CacheError:
                continue  # It is dropped; another may do.
            return entry.cache
        return self._model.new_cache()

    def keep(self, ids: Sequence[int], cache: Cache, stamp: Hashable) -> None:
        """Take back a cache that has read a prefix of `ids` under `stamp`."""
        if stamp != self.stamp or cache.length < _SHORTEST or not self._max_bytes:
            return
        try:
            if cache.memory is not None:
                # A prompt is read as the plain base reads it; what was steered is not.
                cache.truncate(cache.memory.since)
            cache.compact()
        except CacheError:
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.clear()
            return
        new = _Entry(ids[: cache.length], cache, stamp, cache.nbytes)
        # An entry that the new one begins with could serve nothing better.
        self._entries = [each for each in self._entries if each.ids != new.ids[: len(each.ids)]]
        self._entries.append(new)
        self._evict()

    def _found(self, prompt: Sequence[int]) -> Iterator[tuple[int, _Entry]]:
        # The last position must be read for its logits.
        wanted = prompt[:-1]
        for entry in self._entries:
            common = common_length(entry.ids, wanted)
            if common >= _SHORTEST:
                yield common, entry

    def _evict(self) -> None:
        while self._entries and self.nbytes > self._max_bytes:
            self._entries.pop(0)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many items two sequences begin with in common."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
