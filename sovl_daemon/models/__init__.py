"""The model store: pulls language models, keeps them as 16-bit safetensors and checks them.

Importing this package loads neither torch nor transformers; a pull does.
"""

from sovl_daemon.models.catalogue import CATALOGUE, DEFAULT_MODEL, PackagedModel
from sovl_daemon.models.errors import (
    ConversionError,
    FetchError,
    InvalidName,
    ManifestError,
    ModelError,
    ModelExists,
    ModelNotFound,
    NoSpace,
    WrongHash,
)
from sovl_daemon.models.manifest import FileEntry, Manifest
from sovl_daemon.models.progress import Progress, ProgressCallback, ignore_progress
from sovl_daemon.models.store import ModelStore

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "ConversionError",
    "FetchError",
    "FileEntry",
    "InvalidName",
    "Manifest",
    "ManifestError",
    "ModelError",
    "ModelExists",
    "ModelNotFound",
    "ModelStore",
    "NoSpace",
    "PackagedModel",
    "Progress",
    "ProgressCallback",
    "WrongHash",
    "ignore_progress",
]
