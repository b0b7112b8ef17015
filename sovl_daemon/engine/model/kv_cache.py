"""Keys and values that a conversation's tokens have left behind, and the tokens to be read next."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from sovl_daemon.engine.errors import CacheError, first_line

_SMALLEST = 64


class Cache(Protocol):
    """What a model has read of one conversation.

    `length` is the number of positions, which moves at the end of a forward pass only, so one that
    fails leaves no trace; `memory` is what the scaffold remembers of them, None where nothing
    steers the base. It goes wherever the cache goes.
    """

    memory: Any
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and memory."""

    def advance(self, count: int) -> None:
        """Count `count` positions, which every layer has been given, as read."""

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on; raises CacheError where that is not possible."""

    def fork(self, length: int) -> "Cache":
        """Return a cache of the first `length` positions; neither hears of the other's new ones.

        Raises:
            CacheError: what follows them cannot be forgotten.

        """

    def compact(self) -> None:
        """Let go of memory that neither the positions need nor as many more would."""


class NetworkCache:
    """The cache of a network of transformers, for one sequence."""

    def __init__(self, config: Any) -> None:
        self.memory: Any = None
        self.length = 0
        self.dynamic = DynamicCache(config=config)

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor in it, and of the memory."""
        held = (value for layer in self.dynamic.layers for value in vars(layer).values())
        own: int = sum(value.nbytes for value in held if isinstance(value, torch.Tensor))
        return own + _nbytes(self.memory)

    def advance(self, count: int) -> None:
        """Count `count` positions, which every layer has been given, as read."""
        self.length += count

    def settle(self) -> None:
        """Forget what a failed forward pass has left behind the last position.

        Raises:
            CacheError: a layer cannot do so: its state is of all positions, or of the last ones; or
                the network keeps none of what it reads here, as recurrent ones and encoders do.

        """
        if self.length and not any(each.get_seq_length() for each in self.dynamic.layers):
            raise CacheError(f"of {self.length} positions that it has read it keeps none")
        for layer in self.dynamic.layers:
            surplus = layer.get_seq_length() - self.length
            try:
                if surplus > 0:
                    layer.crop(-surplus)
            except (RuntimeError, ValueError) as error:
                raise CacheError(
                    f"a {type(layer).__name__} cannot forget its last {surplus} positions "
                    f"({first_line(error)}): begin again with an empty cache"
                ) from error

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on; raises CacheError as `settle` does."""
        self.length = min(self.length, length)
        self.settle()
        if self.memory is not None:
            self.memory.truncate(length)

    def fork(self, length: int) -> "NetworkCache":
        """Return a cache of the first `length` positions, with memory of its own.

        Raises:
            CacheError: what follows them cannot be forgotten.

        """
        made = copy.copy(self)
        made.length = min(self.length, length)
        made.dynamic = copy.deepcopy(self.dynamic)
        made.settle()
        made.memory = _forked(self.memory, length)
        return made

    def compact(self) -> None:
        """Make the memory compact; the rest is never larger than needed."""
        if self.memory is not None:
            self.memory.compact()


class KeyValueCache:
    """What attention has seen so far, one row of a tensor that may hold other conversations' too.

    `pack` is (layers, conversations, 2 * kv_heads, capacity, head_dim); keys lie in the first half
    of the heads, values in the second. The capacity grows in powers of two up to `limit` positions
    (None: without end).
    """

    def __init__(self, pack: torch.Tensor, limit: int | None, length: int = 0) -> None:
        self.memory: Any = None
        self.length = length
        self.pack = pack
        self.row = 0
        self._limit = limit
        self._shared = False  # with a fork, or with what this one was forked from

    @property
    def capacity(self) -> int:
        """Number of positions there is room for."""
        return int(self.pack.shape[3])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, with the room for more, and of the memory."""
        return int(self.pack[:, self.row].nbytes) + _nbytes(self.memory)

    def reserve(self, count: int) -> None:
        """Make room for `count` more positions."""
        needed = self.length + count
        if needed > self.capacity:
            self._move(self._larger(needed))

    def advance(self, count: int) -> None:
        """Count `count` positions, which every layer has been given, as read."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.length = min(self.length, length)
        if self._shared:  # what lies behind them is somebody else's
            self.pack, self.row = self._first(length), 0
        if self.memory is not None:
            self.memory.truncate(length)

    def fork(self, length: int) -> "KeyValueCache":
        """Return a cache of the first `length` positions; shared until the fork needs room."""
        made = KeyValueCache(self._first(length), self._limit, min(self.length, length))
        self._shared = made._shared = True
        made.memory = _forked(self.memory, length)
        return made

    def compact(self) -> None:
        """Let go of the other rows of the pack, and of room for more than as many positions."""
        if self.pack.shape[1] > 1 or self.capacity > max(2 * self.length, _SMALLEST):
            self._move(self._larger(self.length))
        if self.memory is not None:
            self.memory.compact()

    def _first(self, length: int) -> torch.Tensor:
        return self.pack[:, self.row : self.row + 1, :, : min(self.length, length)]

    def _move(self, capacity: int) -> None:
        layers, _, heads, _, size = self.pack.shape
        move_into([self], self.pack.new_empty(layers, 1, heads, capacity, size))

    def _larger(self, needed: int) -> int:
        capacity = max(_SMALLEST, 1 << (needed - 1).bit_length())
        return capacity if self._limit is None else max(min(capacity, self._limit), needed)


def shared_pack(caches: Sequence[KeyValueCache]) -> torch.Tensor:
    """Return the pack that has exactly these caches, of one capacity, as its rows in order.

    Where they are not together yet they move into a new one.
    """
    pack = caches[0].pack
    together = all(cache.pack is pack and cache.row == row for row, cache in enumerate(caches))
    if not together or pack.shape[1] != len(caches):
        layers, _, heads, capacity, size = pack.shape
        # Zeros, because attention multiplies what is masked: garbage may be infinite.
        pack = pack.new_zeros(layers, len(caches), heads, capacity, size)
        move_into(caches, pack)
    return pack


def move_into(caches: Sequence[KeyValueCache], pack: torch.Tensor) -> None:
    """Move each cache into the row of `pack` that has its index."""
    for row, cache in enumerate(caches):
        pack[:, row, :, : cache.length] = cache.pack[:, cache.row, :, : cache.length]
        cache.pack, cache.row, cache._shared = pack, row, False


def _nbytes(memory: Any) -> int:
    return 0 if memory is None else int(memory.nbytes)


def _forked(memory: Any, length: int) -> Any:
    return None if memory is None else memory.fork(length)


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Token ids that follow what `cache`, which the model has made, holds."""

    ids: Sequence[int]
    cache: Any
