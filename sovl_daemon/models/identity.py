"""What a stored model is, whatever it is called: digests of its weights and of its vocabulary."""

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovl_daemon.models.checkpoint import weight_files
from sovl_daemon.models.errors import ConversionError, first_line
from sovl_daemon.models.files import sha256_of_all

# Of a tensor as many pieces are read, spread evenly: 17 MB of SmolLM2-135M, a tenth of a second.
_PIECES, _PIECE_BYTES = 64, 1024
_VOCABULARY_FILES = ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Identity:
    """SHA-256 of what a model's weights are, and of which number its tokenizer gives each token.

    That of the weights covers every tensor's name, type, shape and a sample of its numbers, so two
    models of one shape have two; how the tensors are spread over files makes no difference.
    """

    weights: str
    vocabulary: str


def identity(folder: Path) -> Identity:
    """Read the identity of the model in a transformers folder.

    Raises:
        ConversionError: it has no safetensors, or files that cannot be read.

    """
    with _readable(folder):
        return Identity(weights_digest(folder), _vocabulary_digest(folder))


def weights_digest(folder: Path) -> str:
    """Return the digest of a folder's weights. Raises as `identity`."""
    with _readable(folder):
        samples = dict(pair for path in weight_files(folder) for pair in _samples(path))
    digest = hashlib.sha256()
    for name in sorted(samples):
        digest.update(samples[name])
    return digest.hexdigest()


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ConversionError(f"{folder} cannot be read: {first_line(error)}") from error


def _samples(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each tensor's name, and the digest of its header and of a sample of its bytes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (length,) = struct.unpack("<Q", data[:8])
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in tensor["data_offsets"])
            digest = hashlib.sha256(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
            step = max(_PIECE_BYTES, (end - begin) // _PIECES)
            for place in range(begin, end, step):
                digest.update(data[place : min(place + _PIECE_BYTES, end)])
            yield name, digest.digest()


def _vocabulary_digest(folder: Path) -> str:
    """Not the files as they are: each version of the tokenizers' library writes them otherwise."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return sha256_of_all([folder / n for n in _VOCABULARY_FILES if (folder / n).is_file()])
    document = json.loads(path.read_bytes())
    added = sorted([token["id"], token["content"]] for token in document.get("added_tokens") or ())
    vocabulary = [document["model"].get("vocab"), added]
    return hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()
