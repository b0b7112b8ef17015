"""From one way to hold the weights to another, read from their file, while the model answers."""

import json
import time
from pathlib import Path
from typing import Any

import anyio
import torch
from safetensors import SafetensorError, safe_open

from sovl_daemon.engine.errors import ModelLoadError, first_line
from sovl_daemon.engine.model import bnb_matrix
from sovl_daemon.engine.model.allocator import return_free_memory
from sovl_daemon.engine.model.formats import INT4_GROUP
from sovl_daemon.engine.model.llama import FusedLinear, Llama
from sovl_daemon.engine.model.precision import Holding, Precision, unquantised
from sovl_daemon.engine.thread.inbox import call
from sovl_daemon.engine.thread.tensor_thread import Priority, TensorThread

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# A switch takes the thread for so long at a time, so that no token waits long behind it...
_AT_ONCE_S = 0.1
# ...and leaves it free for so long, in which the thread takes up a conversation's step.
_BETWEEN_S = 0.002


class MappedWeights:
    """Tensors of a model's safetensors by name, mapped into memory.

    What is read lies in the page cache, which the system may take back, not in the process.

    Raises:
        ModelLoadError: the folder has no readable safetensors.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            index, names = path / _INDEX, {_ONE_FILE}
            if index.is_file():
                shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                names = set(shards.values())
            files: list[Any] = [safe_open(path / name, framework="pt") for name in sorted(names)]
            # What safetensors calls keys is no mapping's.
            self._handles = {key: file for file in files for key in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelLoadError(
                f"cannot read the weights in {path} ({first_line(error)}): pull the model again"
            ) from error

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor as it is stored, without a copy.

        Raises:
            ModelLoadError: there is none of that name.

        """
        if name not in self._handles:
            raise ModelLoadError(f"the weights in {self._path} lack {name}: pull the model again")
        tensor: torch.Tensor = self._handles[name].get_tensor(name)
        return tensor


class PrecisionSwitch:
    """Exchanges the matrices of a model for the same in another precision, read from `weights`.

    Between two steps the model is whole and may be used, with some layers in each precision: what
    flows between layers, and what a conversation's cache holds, has one format in all of them.
    Every weight comes from the weights, so the way back is exact. In memory is, at any time, one
    matrix more than the model in the larger of the two precisions. `precision` is one of
    `possible_precisions`, or "offloaded".
    """

    def __init__(self, model: Llama, weights: MappedWeights, precision: Holding) -> None:
        self._weights = weights
        self._precision = precision
        self._head = model.head
        self._device = model.device
        layers = list(model.linears())
        # The head is the largest matrix: last where memory falls, first where it rises.
        grows = precision == unquantised(model.head.dtype)
        self._layers = iter(layers[::-1] if grows else layers)
        self._done: list[tuple[FusedLinear, Holding]] = []

    async def complete(self, thread: TensorThread) -> None:
        """Switch all layers on the tensor thread, and back those that were if one fails.

        Raises:
            EngineOutOfMemoryError: there is no memory for the switch.
            EngineStoppedError: the thread was stopped.

        """

        def some_layers() -> bool:
            """Switch as many as the time allows, one at least; False when none is left."""
            until = time.monotonic() + _AT_ONCE_S
            while more := self.step():
                if time.monotonic() >= until:
                    break
            return more

        try:
            more = True
            while more:
                more = await call(thread, some_layers, Priority.JUDGE)
                await anyio.sleep(_BETWEEN_S)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await call(thread, self.roll_back, Priority.JUDGE)
            raise

    def step(self) -> bool:
        """Switch the next layer; False when there is none left.

        Raises:
            MemoryError, RuntimeError: no memory; `roll_back` undoes the steps so far.

        """
        layer = next(self._layers, None)
        for linear in layer or ():
            before, after = linear.matrix.precision, self._precision
            # 4 bits in the head alone cost SmolLM2-135M 4.7 % of perplexity, in all blocks 0.2 %.
            if linear is self._head and after == "int4":
                after = "int8"
            if before != after:
                self._hold(linear, after)
                self._done.append((linear, before))
        return_free_memory(self._device)
        return layer is not None

    def roll_back(self) -> None:
        """Return every matrix that was switched to the precision it had."""
        self._layers = iter(())
        while self._done:
            linear, precision = self._done[-1]
            self._hold(linear, precision)
            self._done.pop()
        return_free_memory(self._device)

    def _hold(self, linear: FusedLinear, precision: Holding) -> None:
        with torch.no_grad():
            linear.hold([self._weights.tensor(name) for name in linear.names], precision)


def possible_precisions(model: Llama) -> list[Precision]:
    """Return the precisions `model` can be held in: the one it was loaded in first."""
    plain: list[Precision] = [unquantised(model.head.dtype)]
    if obstacle(model):
        return plain
    linears = (linear for layer in model.linears() for linear in layer)
    widths = (module.in_features for linear in linears for module in linear.modules)
    grouped = all(width % INT4_GROUP == 0 for width in widths)
    return [*plain, "int8", "int4"] if grouped else [*plain, "int8"]


def obstacle(model: Llama) -> str:
    """Return in one line why `model` cannot be held in fewer bits, empty if it can.

    The first time on a GPU this takes seconds.
    """
    match model.device.type:
        case "cpu":
            return ""
        case "cuda":
            return bnb_matrix.obstacle(model.device)
        case other:
            return f"there are no matrices of fewer bits for {other}"
