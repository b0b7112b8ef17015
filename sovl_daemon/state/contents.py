"""What a generation holds: the trained weights, the token map, and the mind's own numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from sovl_daemon.state.manifest import json_text
from sovl_daemon.state.tensors import Tensors, pack

FUSION = "fusion.safetensors"
SCAFFOLD = "scaffold.safetensors"
TOKEN_MAP = "token_map.json"  # noqa: S105 - a file's name
MIND = "mind.json"
TRAINING = "training.safetensors"

REQUIRED = (FUSION, SCAFFOLD, TOKEN_MAP, MIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All that a mind is beside its frozen models; what is empty is as in a new-born mind.

    `fusion` holds the weights of the cross-attention, `scaffold` those of the adapters, by name.
    `token_map` and `mind` are in JSON's types. `training` is what a training run needs to go on
    (an optimizer's moments); None where there is no such run.
    """

    fusion: Tensors = field(default_factory=dict)
    scaffold: Tensors = field(default_factory=dict)
    token_map: Mapping[str, JsonValue] = field(default_factory=dict)
    mind: Mapping[str, JsonValue] = field(default_factory=dict)
    training: Tensors | None = None

    def write(self, folder: Path) -> None:
        """Write all files.

        Raises:
            NotStorable: something has no form on disk.

        """
        (folder / FUSION).write_bytes(pack(self.fusion))
        (folder / SCAFFOLD).write_bytes(pack(self.scaffold))
        (folder / TOKEN_MAP).write_text(json_text(self.token_map), encoding="utf-8")
        (folder / MIND).write_text(json_text(self.mind), encoding="utf-8")
        if self.training is not None:
            (folder / TRAINING).write_bytes(pack(self.training))
