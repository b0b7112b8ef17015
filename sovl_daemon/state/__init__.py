"""The state of a mind on disk: generations, saves, and what a running night has so far.

A generation is a folder, complete and checked, that appears by one rename. Importing this package
loads neither torch nor numpy.
"""

from sovl_daemon.state.contents import Contents
from sovl_daemon.state.errors import (
    Damaged,
    InvalidSaveName,
    NewerFormat,
    NoSoundGeneration,
    NotFound,
    NotReadBack,
    NotStorable,
    OtherModels,
    SaveExists,
    StateError,
    StateLocked,
)
from sovl_daemon.state.generation import Generation
from sovl_daemon.state.manifest import GenerationManifest
from sovl_daemon.state.origin import Origin, is_known_by_name, misfit
from sovl_daemon.state.store import Listed, Loaded, Refusal, StateStore
from sovl_daemon.state.writer import StateWriter

__all__ = [
    "Contents",
    "Damaged",
    "Generation",
    "GenerationManifest",
    "InvalidSaveName",
    "Listed",
    "Loaded",
    "NewerFormat",
    "NoSoundGeneration",
    "NotFound",
    "NotReadBack",
    "NotStorable",
    "Origin",
    "OtherModels",
    "Refusal",
    "SaveExists",
    "StateError",
    "StateLocked",
    "StateStore",
    "StateWriter",
    "is_known_by_name",
    "misfit",
]
