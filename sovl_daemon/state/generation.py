"""One generation on disk: checked as a whole, then read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from sovl_daemon.models.manifest import find_faults, has_its_sizes
from sovl_daemon.state.contents import (
    FUSION,
    MIND,
    REQUIRED,
    SCAFFOLD,
    TOKEN_MAP,
    TRAINING,
    Contents,
)
from sovl_daemon.state.errors import Damaged
from sovl_daemon.state.manifest import MANIFEST_NAME, SEAL_NAME, GenerationManifest, read_manifest
from sovl_daemon.state.tensors import Framework, Tensors, read


@dataclass(frozen=True, slots=True)
class Generation:
    """A folder and its manifest. Make one with `sound` or `glance`."""

    folder: Path
    manifest: GenerationManifest

    @classmethod
    def sound(cls, folder: Path) -> "Generation":
        """Read a generation and compare every byte of it with what was written.

        Raises:
            Damaged: it is not what was written; the message names each file at fault.
            NewerFormat: a newer version of SOVL wrote it.

        """
        found = cls(folder, read_manifest(folder))
        with _unreadable_is_damaged():
            faults = found.faults()
        if faults:
            raise Damaged("; ".join(faults))
        return found

    @classmethod
    def glance(cls, folder: Path) -> "Generation":
        """Read a generation's manifest and compare the sizes of its files: quick.

        Raises:
            Damaged: the manifest is damaged, or a file is missing or has another size.
            NewerFormat: a newer version of SOVL wrote it.

        """
        found = cls(folder, read_manifest(folder))
        with _unreadable_is_damaged():
            complete = has_its_sizes(found.manifest, folder)
        if not complete:
            raise Damaged("a file is missing or has another size")
        return found

    def faults(self) -> list[str]:
        """Return one line for each file that is not what was written."""
        unlisted = (MANIFEST_NAME, SEAL_NAME)
        found = find_faults(self.manifest, self.folder, unlisted=unlisted)
        absent = [name for name in REQUIRED if name not in self.manifest.files]
        return found + [f"{name}: not in the manifest" for name in absent]

    def fusion(self, framework: Framework = "numpy") -> Tensors:
        """Return the weights of the cross-attention by name."""
        return read(self.folder / FUSION, framework)

    def scaffold(self, framework: Framework = "numpy") -> Tensors:
        """Return the weights of the adapters by name."""
        return read(self.folder / SCAFFOLD, framework)

    def training(self, framework: Framework = "numpy") -> Tensors | None:
        """Return what a training run needs to go on; None if it was none."""
        path = self.folder / TRAINING
        return read(path, framework) if TRAINING in self.manifest.files else None

    def token_map(self) -> dict[str, JsonValue]:
        """Return the state of the token map; empty if it has learned nothing."""
        return dict(json.loads((self.folder / TOKEN_MAP).read_bytes()))

    def mind(self) -> dict[str, JsonValue]:
        """Return the mind's own numbers."""
        return dict(json.loads((self.folder / MIND).read_bytes()))

    def holds(self) -> list[str]:
        """Return the parts in which it has something, in words; none where it is new-born."""
        parts = {
            "scaffold": self.scaffold(),
            "cross-attention": self.fusion(),
            "token map": self.token_map(),
            "mind": self.mind(),
        }
        return [name for name, part in parts.items() if part]

    def contents(self, framework: Framework = "numpy") -> Contents:
        """Return everything at once."""
        return Contents(
            fusion=self.fusion(framework),
            scaffold=self.scaffold(framework),
            token_map=self.token_map(),
            mind=self.mind(),
            training=self.training(framework),
        )


@contextmanager
def _unreadable_is_damaged() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Damaged(f"{Path(error.filename or '').name}: {error.strerror}") from error
