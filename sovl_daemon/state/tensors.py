"""Tensors as safetensors, from and for torch or numpy. Neither is loaded before it is needed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from sovl_daemon.state.errors import NotStorable

if TYPE_CHECKING:
    import numpy as np
    import torch

    Tensor: TypeAlias = np.ndarray[Any, Any] | torch.Tensor

Tensors = Mapping[str, "Tensor"]
"""Arrays of numpy, or tensors of torch, by name."""

_NUMPY_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}

Framework = Literal["numpy", "torch"]


class _View(TypedDict):
    """One tensor of a file, as safetensors describes it."""

    dtype: str
    shape: list[int]
    data: bytes


def pack(tensors: Tensors) -> bytes:
    """Return tensors as a safetensors file.

    Raises:
        NotStorable: one of them is no tensor, or of a type that safetensors lacks.

    """
    from safetensors import SafetensorError

    try:
        if any(hasattr(tensor, "detach") for tensor in tensors.values()):
            import torch
            from safetensors.torch import save

            # Copies: safetensors refuses tensors that share memory, as slices of one matrix do.
            own = {name: torch.as_tensor(each).detach() for name, each in tensors.items()}
            cpu = {name: each.cpu().clone() for name, each in own.items()}
            return bytes(save({name: each.contiguous() for name, each in cpu.items()}))
        import numpy as np
        from safetensors.numpy import save as save_numpy

        arrays = {name: np.asarray(each, order="C") for name, each in tensors.items()}
        return bytes(save_numpy(arrays))
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise NotStorable(f"the state holds what is no tensor: {error}") from error


def read(path: Path, framework: Framework = "numpy") -> dict[str, "Tensor"]:
    """Read all tensors of a file. numpy has no bfloat16: there it comes as the same float32."""
    if framework == "torch":
        from safetensors.torch import load_file

        return dict(load_file(path))
    import safetensors

    deserialize: Callable[[bytes], list[tuple[str, _View]]] = safetensors.deserialize
    return {name: _array(view) for name, view in deserialize(path.read_bytes())}


def _array(view: _View) -> "np.ndarray[Any, Any]":
    import numpy as np

    if view["dtype"] == "BF16":
        halves = np.frombuffer(view["data"], dtype=np.uint16)
        return (halves.astype(np.uint32) << 16).view(np.float32).reshape(view["shape"])
    return np.frombuffer(view["data"], dtype=_NUMPY_TYPES[view["dtype"]]).reshape(view["shape"])
