"""From one precision to another, a layer at a time, while the model goes on answering."""

from collections.abc import Iterator

import torch

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.llama import Llama
from sovl_daemon.engine.master import Master
from sovl_daemon.engine.matrix import INT4_GROUP
from sovl_daemon.engine.precision import Precision, unquantised
from sovl_daemon.engine.slot import Slot


class PrecisionSwitch:
    """Exchanges the matrices of a model for the same in another precision, read from `master`.

    Between two steps the model is whole and may be used, with some layers in each precision: what
    flows between layers, and what a conversation's cache holds, has one format in all of them.
    Every weight comes from the master, so the way back is exact. In memory is, at any time, one
    matrix more than the model in one of the two precisions.

    Raises:
        OptionError: the model cannot be held in this precision here.

    """

    def __init__(self, model: Llama, master: Master, precision: Precision) -> None:
        check_precision(model, precision)
        self._master = master
        self._precision = precision
        self._layers = iter(_in_order(model, precision))
        self._done: list[tuple[Slot, Precision]] = []

    def step(self) -> bool:
        """Switch the next layer; False when there is none left.

        Raises:
            MemoryError, RuntimeError: no memory; `roll_back` undoes the steps so far.

        """
        layer = next(self._layers, None)
        for slot in layer or ():
            if slot.matrix.precision != self._precision:
                before = slot.matrix.precision
                self._hold(slot, self._precision)
                self._done.append((slot, before))
        return layer is not None

    def roll_back(self) -> None:
        """Return every matrix that was switched to the precision it had."""
        self._layers = iter(())
        while self._done:
            slot, precision = self._done[-1]
            self._hold(slot, precision)
            self._done.pop()

    def _hold(self, slot: Slot, precision: Precision) -> None:
        with torch.no_grad():
            slot.hold([self._master.tensor(name) for name in slot.names], precision)


def check_precision(model: Llama, precision: Precision) -> None:
    """Raise OptionError, naming what is possible, where `model` cannot be held in `precision`."""
    allowed = possible_precisions(model)
    if precision not in allowed:
        raise OptionError(
            f"precision {precision!r} is not possible for this model here: use "
            + " or ".join(allowed)
        )


def possible_precisions(model: Llama) -> list[Precision]:
    """Return the precisions `model` can be held in: the one it was loaded in first."""
    plain: list[Precision] = [unquantised(model.head.dtype)]
    # The packed kernels are a CPU's.
    if model.norm.weight.device.type != "cpu":
        return plain
    grouped = all(width % INT4_GROUP == 0 for width in _widths(model))
    return [*plain, "int8", "int4"] if grouped else [*plain, "int8"]


def _widths(model: Llama) -> Iterator[int]:
    return (
        module.in_features for layer in model.slots() for slot in layer for module in slot.modules
    )


def _in_order(model: Llama, precision: Precision) -> list[tuple[Slot, ...]]:
    """The head is the largest matrix: last where memory falls, first where it rises."""
    layers = list(model.slots())
    return layers[::-1] if precision == unquantised(model.head.dtype) else layers
