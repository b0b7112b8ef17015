"""What is different between two generations."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from sovl_daemon.state.generation import Generation

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Arrays = Mapping[str, "Array"]


Leaf = str | float | bool | None
"""A value of JSON that is no object or list."""


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor that is not the same in both.

    `change` is `added`, `removed`, `reshaped` or `changed`; of a changed one `norm` is the
    Frobenius norm of the difference, and `relative` that norm over the norm in the first
    generation; None where that is zero.
    """

    name: str
    change: str
    norm: float | None = None
    relative: float | None = None


@dataclass(frozen=True, slots=True)
class NumberChange:
    """One value of the mind, by its dotted path, before and after; None where it is absent."""

    name: str
    before: Leaf
    after: Leaf


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything that is different; what is the same is only counted.

    `learned` are the interactions that the second has learned and the first has not, `unlearned`
    the reverse. `token_weights` counts the tokens whose weight is not the same in both.
    """

    tensors: tuple[TensorChange, ...]
    same_tensors: int
    mind: tuple[NumberChange, ...]
    token_weights: int
    learned: tuple[int, ...]
    unlearned: tuple[int, ...]


def difference(first: Generation, second: Generation) -> Difference:
    """Compare two sound generations."""
    before, after = _arrays(first), _arrays(second)
    tensors = tuple(_tensor_changes(before, after))
    maps = _leaves(first.token_map()), _leaves(second.token_map())
    was = first.manifest.learned_from(second.manifest.memory)
    now = second.manifest.learned_from(first.manifest.memory)
    return Difference(
        tensors=tensors,
        same_tensors=len(before.keys() | after.keys()) - len(tensors),
        mind=tuple(_number_changes(_leaves(first.mind()), _leaves(second.mind()))),
        token_weights=sum(1 for _ in _number_changes(*maps)),
        learned=tuple(sorted(now.keys() - was.keys())),
        unlearned=tuple(sorted(was.keys() - now.keys())),
    )


def _arrays(generation: Generation) -> Arrays:
    import numpy as np

    parts = {"fusion": generation.fusion(), "scaffold": generation.scaffold()}
    return {
        f"{part}.{name}": np.asarray(each)
        for part, tensors in parts.items()
        for name, each in tensors.items()
    }


def _tensor_changes(before: Arrays, after: Arrays) -> Iterator[TensorChange]:
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield TensorChange(name, "added")
        elif name not in after:
            yield TensorChange(name, "removed")
        elif before[name].shape != after[name].shape:
            yield TensorChange(name, "reshaped")
        elif before[name].tobytes() != after[name].tobytes():
            yield _changed(name, before[name], after[name])


def _changed(name: str, before: "Array", after: "Array") -> TensorChange:
    import numpy as np

    was = before.astype(np.float64)
    norm, scale = float(np.linalg.norm(after - was)), float(np.linalg.norm(was))
    finite = bool(np.isfinite(norm))
    relative = norm / scale if finite and scale > 0 and np.isfinite(scale) else None
    return TensorChange(name, "changed", norm if finite else None, relative)


def _number_changes(
    before: Mapping[str, Leaf], after: Mapping[str, Leaf]
) -> Iterator[NumberChange]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name) or (name in before) != (name in after):
            yield NumberChange(name, before.get(name), after.get(name))


def _leaves(value: JsonValue, path: str = "") -> dict[str, Leaf]:
    """Every value that is no object or list, by its dotted path."""
    if not isinstance(value, dict | list):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[str, Leaf] = {}
    for key, each in items:
        found |= _leaves(each, f"{path}.{key}" if path else str(key))
    return found
