"""One matrix of the lean forward pass and the layers of the network it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sovl_daemon.engine.model.matrix import Matrix, PlainMatrix, stack
from sovl_daemon.engine.model.precision import Holding, Precision


@dataclass(slots=True, eq=False)
class Slot:
    """A matrix that may be exchanged for the same in another precision.

    `modules` are the network's layers whose weights it holds, one below the other; `names` those
    weights in the model's file. As long as the matrix is plain, the network's weights are views of
    it, so both are one in memory. Else the network's are those of the file, mapped, whichever
    `device` the matrix is on. `few_rows` as in `stack`.
    """

    names: tuple[str, ...]
    modules: tuple[Any, ...]
    matrix: Matrix
    dtype: torch.dtype
    device: torch.device
    tied: tuple[Any, ...] = ()
    few_rows: bool = False

    @classmethod
    def take(
        cls,
        names: Sequence[str],
        modules: Sequence[Any],
        precision: Precision,
        tied: Sequence[Any] = (),
        *,
        few_rows: bool = False,
    ) -> "Slot":
        """Take over the weights of `modules`, and of those `tied` to the first of them."""
        weights = [module.weight.data for module in modules]
        plain, like = PlainMatrix(weights[0], precision), weights[0]
        slot = cls(
            tuple(names), tuple(modules), plain, like.dtype, like.device, tuple(tied), few_rows
        )
        slot.hold(weights, precision)
        return slot

    def hold(self, weights: Sequence[torch.Tensor], precision: Holding) -> None:
        """Hold `weights`, as many as there are modules, in `precision`."""
        matrix = stack(weights, self.dtype, precision, few_rows=self.few_rows, device=self.device)
        if isinstance(matrix, PlainMatrix):
            weights = matrix.weight.split([len(weight) for weight in weights])
        for module, weight in zip(self.modules, weights, strict=True):
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
        for module in self.tied:
            module.weight = self.modules[0].weight
        self.matrix = matrix
