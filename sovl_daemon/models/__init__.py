"""The model store: pulls language models, keeps them as 16-bit safetensors and checks them.

Importing this package loads neither torch nor transformers; a pull does.
"""

from sovl_daemon.models.catalogue import CATALOGUE, DEFAULT_MODEL, PackagedModel
from sovl_daemon.models.errors import (
    ConversionError,
    FetchError,
    InvalidModelName,
    ManifestError,
    ModelError,
    ModelExists,
    ModelNotFound,
    NoSpace,
    WrongHash,
)
from sovl_daemon.models.manifest import FileEntry, ModelManifest
from sovl_daemon.models.progress import ProgressCallback, StageProgress, ignore_progress
from sovl_daemon.models.store import ModelStore

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "ConversionError",
    "FetchError",
    "FileEntry",
    "InvalidModelName",
    "ManifestError",
    "ModelError",
    "ModelExists",
    "ModelManifest",
    "ModelNotFound",
    "ModelStore",
    "NoSpace",
    "PackagedModel",
    "ProgressCallback",
    "StageProgress",
    "WrongHash",
    "ignore_progress",
]
