"""The weights as they lie in the model's folder."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sovl_daemon.engine.errors import ModelLoadError, first_line

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class Master:
    """Tensors of a model's safetensors by name, mapped into memory.

    What is read lies in the page cache, which the system may take back, not in the process.

    Raises:
        ModelLoadError: the folder has no readable safetensors.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handles = self._open()
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

    def _open(self) -> dict[str, Any]:
        index = self._path / _INDEX
        names = {_ONE_FILE}
        if index.is_file():
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files: list[Any] = [safe_open(self._path / name, framework="pt") for name in sorted(names)]
        return {key: file for file in files for key in file.keys()}  # noqa: SIM118 - no mapping
