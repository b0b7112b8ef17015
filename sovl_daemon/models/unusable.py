"""What a file or folder really is, where it is no model that can be pulled, and what to do then."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from sovl_daemon.models.errors import ConversionError

GGUF_MAGIC = b"GGUF"

_GGUF_VERSIONS = (2, 3)
_HEAD_BYTES = 512
_AGAIN = "fetch it again"
_NO_PICKLE = "never loaded, for it may run code: convert it to safetensors first, or pull another"
# By how a file begins.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file: run git lfs pull there"),
    (b"<", f"is a web page, not a model: {_AGAIN}, by the link of the file itself"),
    (b'{"', f"is JSON, perhaps a server's error message, not a model: {_AGAIN}"),
    (b"PK\x03\x04", f"is a zip archive or a pickled checkpoint, {_NO_PICKLE}"),
    (b"\x80", f"is a pickled checkpoint, {_NO_PICKLE}"),
    (b"\x1f\x8b", "is a compressed archive: unpack it, and give the file or folder in it"),
    (b"lmgg", "is in the format before GGUF: pull a newer file of the model"),
    (b"fmgg", "is in the format before GGUF: pull a newer file of the model"),
    (b"tjgg", "is in the format before GGUF: pull a newer file of the model"),
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
_WRITES_TEXT = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class _ModelConfig(BaseModel):
    """What a model's config.json says that decides whether it can be pulled."""

    architectures: list[str] | None = None
    is_encoder_decoder: bool | None = None
    quantization_config: JsonValue = None
    quantization: JsonValue = None  # of MLX


class _AdapterConfig(BaseModel):
    """What an adapter_config.json says of the model that it adapts."""

    base_model_name_or_path: str | None = None


Config = TypeVar("Config", bound=BaseModel)


def require_gguf(path: Path) -> None:
    """Check that a file begins as a GGUF file that can be read.

    Raises:
        ConversionError: it is something else; the message says what, and what to do.

    """
    head = _head(path)
    if not head.startswith(GGUF_MAGIC):
        raise ConversionError(f"{path} {_what_else(head)}")
    little, big = (int.from_bytes(head[4:8], order) for order in ("little", "big"))
    if not {little, big} & set(_GGUF_VERSIONS):
        raise ConversionError(
            f"{path} is GGUF of version {min(little, big)}, where 2 and 3 are read: pull another "
            "file of the model, or update SOVL"
        )


def require_safetensors(path: Path) -> None:
    """Check that a file is safetensors, and whole. Raises ConversionError."""
    head, size = _head(path), path.stat().st_size
    if head[8:9] != b"{":
        raise ConversionError(f"{path} {_what_else(head)}")
    length = int.from_bytes(head[:8], "little")
    if 8 + length > size:
        raise ConversionError(f"{path} {cut_off(size)}")
    try:
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(8 + length)[8:])
        ends = [each["data_offsets"][1] for key, each in header.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{path} has a damaged header: {_AGAIN}") from error
    if 8 + length + max(ends, default=0) > size:
        raise ConversionError(f"{path} {cut_off(size)}")


def require_folder(folder: Path, title: str) -> None:
    """Check that a folder holds a language model of transformers, by its configuration and names.

    `title` is what the user calls it.

    Raises:
        ConversionError: it is something else, or a part is missing.

    """
    if not folder.is_dir():
        raise ConversionError(f"{title}: there is no such file or folder")
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names and not names & set(_WEIGHTS):
        base = _config(folder / "adapter_config.json", _AdapterConfig).base_model_name_or_path
        raise ConversionError(
            f"{title} is an adapter (LoRA), not a model: merge it into {base or 'its base'}, for "
            "example with peft's merge_and_unload, and give the folder of that"
        )
    if "modules.json" in names or "config_sentence_transformers.json" in names:
        raise ConversionError(f"{title} makes embeddings, not text: choose a language model")
    if "config.json" not in names:
        raise ConversionError(f"{title} {_without_config(names)}")
    _require_language_model(_config(folder / "config.json", _ModelConfig), title)
    if not names & set(_TOKENIZERS):
        raise ConversionError(
            f"{title} has no tokenizer: put the original's tokenizer.json beside the weights"
        )


def require_shards(folder: Path, names: Collection[str]) -> None:
    """Check that every shard that an index names lies in the folder. Raises ConversionError."""
    outside = sorted(name for name in names if Path(name).name != name)
    if outside:
        raise ConversionError(f"{folder} has an index that names {outside[0]!r}, outside of it")
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise ConversionError(
            f"{folder} lacks {len(missing)} of its {len(names)} files of weights: "
            f"{few(missing)}; fetch what is missing"
        )


def cut_off(size: int) -> str:
    """Say that a file ends before its weights do. `size` in bytes."""
    return f"is cut off after {size / 1e6:,.1f} MB, so it was not fetched to its end: {_AGAIN}"


def few(names: Collection[str]) -> str:
    """Name the first three, and how many there are besides."""
    rest = len(names) - 3
    return ", ".join(sorted(names)[:3]) + (f" and {rest} more" if rest > 0 else "")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _what_else(head: bytes) -> str:
    if not head:
        return f"is empty: {_AGAIN}"
    if head[8:9] == b"{":
        return (
            "is a file of safetensors: give the folder that it is in, with its config.json and "
            "tokenizer"
        )
    start = head.lstrip().lower()
    known = (what for beginning, what in _BEGINNINGS if start.startswith(beginning.lower()))
    return next(known, f"is no GGUF or safetensors file, nor one of a kind that is known: {_AGAIN}")


def _without_config(names: Collection[str]) -> str:
    if found := [name for name in names if name.lower().endswith(".gguf")]:
        return f"is a folder with GGUF files: give the path of one of them: {few(found)}"
    if "model_index.json" in names:
        return "makes images (diffusers), not text: choose a language model"
    if "params.json" in names:
        return "is in its maker's own format: pull the one for transformers, with a config.json"
    return "is no transformers model folder: config.json is missing"


def _config(path: Path, kind: type[Config]) -> Config:
    data = path.read_bytes()
    try:
        document = dict(json.loads(data))
    except (ValueError, TypeError) as error:
        what = f"is no JSON object: {_AGAIN}"
        raise ConversionError(f"{path} {what if data[:1] == b'{' else _what_else(data)}") from error
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConversionError(f"{path} is damaged, {where}: {first['msg']}; {_AGAIN}") from error


def _require_language_model(config: _ModelConfig, title: str) -> None:
    quantised = config.quantization_config or config.quantization
    if quantised:
        method = quantised.get("quant_method", "MLX") if isinstance(quantised, dict) else "MLX"
        raise ConversionError(
            f"{title} is quantised ({method}); pull the original instead, or a GGUF file of it"
        )
    classes = config.architectures or []
    if config.is_encoder_decoder or not (
        not classes or any(each.endswith(_WRITES_TEXT) for each in classes)
    ):
        kind = ", ".join(classes) or "model with an encoder"
        raise ConversionError(
            f"{title} is a {kind}, which does not go on with a text: choose a causal language model"
        )
