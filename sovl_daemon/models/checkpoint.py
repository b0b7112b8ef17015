"""What a checkpoint's headers say, read without its weights and without torch."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sovl_daemon.models.errors import ConversionError, first_line

_SHARD_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Header:
    """Number of weights, and the precisions that its matrices are stored in (`F16`, `Q4_1` ...)."""

    parameters: int
    matrix_dtypes: frozenset[str]
    pre_tokenizer: str | None = None

    @property
    def half_dtype(self) -> str | None:
        """Return `float16` or `bfloat16` when that is how all matrices are stored."""
        names = {"F16": "float16", "BF16": "bfloat16"}
        return names.get(next(iter(self.matrix_dtypes))) if len(self.matrix_dtypes) == 1 else None


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file or of a transformers folder.

    Raises:
        ConversionError: it has no safetensors, is quantised already, or cannot be read.

    """
    try:
        return _read_gguf(path) if path.is_file() else _read_folder(path)
    except ConversionError:
        raise
    except Exception as error:  # three parsers of untrusted files, each with its own errors
        raise ConversionError(f"{path.name} cannot be read: {first_line(error)}") from error


def _read_gguf(path: Path) -> Header:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    pre_tokenizer = reader.fields.get("tokenizer.ggml.pre")
    return Header(
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        matrix_dtypes=frozenset(t.tensor_type.name for t in reader.tensors if len(t.shape) > 1),
        pre_tokenizer=pre_tokenizer.contents() if pre_tokenizer else None,
    )


def _read_folder(folder: Path) -> Header:
    config = json.loads((folder / "config.json").read_bytes())
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "some method")
        raise ConversionError(f"{folder.name} is quantised ({method}); pull the original instead")
    shapes = [entry for path in weight_files(folder) for entry in _tensors_of(path)]
    return Header(
        parameters=sum(prod(shape) for _, shape in shapes),
        matrix_dtypes=frozenset(dtype for dtype, shape in shapes if len(shape) > 1),
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors of a transformers folder: one file, or the shards of its index.

    Raises:
        ConversionError: it has none.

    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / _SHARD_INDEX).is_file():
        index = json.loads((folder / _SHARD_INDEX).read_bytes())
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    raise ConversionError(
        f"{folder.name} has no model.safetensors; other weight files are never loaded, "
        "convert it to safetensors first"
    )


def _tensors_of(path: Path) -> list[tuple[str, list[int]]]:
    from safetensors import safe_open

    with safe_open(path, "numpy") as weights:
        slices: list[Any] = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118
        return [(part.get_dtype(), part.get_shape()) for part in slices]
