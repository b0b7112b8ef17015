"""What a checkpoint's headers say, read without its weights and without torch."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from sovl_daemon.models.errors import ConversionError, first_line
from sovl_daemon.models.unusable import require_safetensors, require_shards

# Architectures of GGUF files that only read: embeddings, encoders, images.
_READS_ONLY = {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "t5encoder", "clip"}
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
        ConversionError: it has no safetensors, is no language model, or cannot be read.

    """
    try:
        return _read_gguf(path) if path.is_file() else _read_folder(path)
    except ConversionError:
        raise
    except Exception as error:  # three parsers of untrusted files, each with its own errors
        if "GGMLQuantizationType" in str(error):
            raise ConversionError(
                f"{path} holds weights of a type that is not known here ({first_line(error)}): "
                "pull a file in Q8_0 or F16"
            ) from error
        raise ConversionError(
            f"{path} cannot be read, so it is cut off or damaged ({first_line(error)}): "
            "fetch it again"
        ) from error


def _read_gguf(path: Path) -> Header:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    _require_language_model(reader, path)
    pre_tokenizer = reader.fields.get("tokenizer.ggml.pre")
    return Header(
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        matrix_dtypes=frozenset(t.tensor_type.name for t in reader.tensors if len(t.shape) > 1),
        pre_tokenizer=pre_tokenizer.contents() if pre_tokenizer else None,
    )


def _require_language_model(reader: Any, path: Path) -> None:
    """Raise ConversionError for a GGUF file of a part of a model, or of no language model."""
    said = {
        name: field.contents()
        for name in ("general.type", "general.architecture", "split.count")
        if (field := reader.fields.get(name))
    }
    kind, architecture = said.get("general.type", "model"), said.get("general.architecture", "")
    if kind != "model":
        raise ConversionError(
            f"{path} holds a part beside a model ({kind}): give the model's own GGUF file"
        )
    if architecture in _READS_ONLY:
        raise ConversionError(
            f"{path} is a {architecture}, which does not go on with a text: choose a language model"
        )
    if said.get("split.count", 1) > 1:
        raise ConversionError(
            f"{path} is one of {said['split.count']} parts: name them all as they were, "
            f"{path.stem}-00001-of-{said['split.count']:05}.gguf and so on, side by side"
        )


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of a transformers folder by its name.

    Raises:
        ConversionError: it has no safetensors.

    """
    return {
        name: tuple(shape) for path in weight_files(folder) for name, _, shape in _tensors_of(path)
    }


def _read_folder(folder: Path) -> Header:
    shapes = [entry[1:] for path in weight_files(folder) for entry in _tensors_of(path)]
    if eighths := sorted({dtype for dtype, _ in shapes if dtype.startswith("F8")}):
        raise ConversionError(
            f"{folder} is quantised ({eighths[0]}); pull the original instead, or a GGUF file of it"
        )
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
        names = sorted(set(index["weight_map"].values()))
        require_shards(folder, names)
        return [folder / name for name in names]
    raise ConversionError(
        f"{folder} has no model.safetensors; other weight files are never loaded, "
        "for they may run code: convert it to safetensors first, or pull another"
    )


def _tensors_of(path: Path) -> list[tuple[str, str, list[int]]]:
    """Return name, precision and shape of each."""
    from safetensors import safe_open

    require_safetensors(path)
    with safe_open(path, "numpy") as weights:
        parts: dict[str, Any] = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        return [(name, part.get_dtype(), part.get_shape()) for name, part in parts.items()]
