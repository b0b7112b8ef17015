"""The manifest of a stored model: what it is, where it came from, what its files must hash to."""

from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from sovl_daemon.models.errors import ManifestError
from sovl_daemon.models.files import files_in, sha256_of
from sovl_daemon.models.progress import ProgressCallback, ignore_progress

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 of one file."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str


class Listing(Protocol):
    """What lists the files of a folder with their sizes and hashes."""

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """The files by their path in the folder."""


class ModelManifest(BaseModel):
    """Everything the store knows about one model.

    `dtype` is the precision of the stored weights (float16 or bfloat16), `parameters` counts
    shared weights once, `created` is in UTC, `weights` is their digest (`models/identity.py`; empty
    where an older version pulled it), and `files` lists all files but the manifest.
    """

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT_VERSION
    name: str
    source: str
    source_sha256: str
    dtype: str
    parameters: int
    created: datetime
    weights: str = ""
    files: dict[str, FileEntry]

    @property
    def total_bytes(self) -> int:
        """Return the size of all files together."""
        return sum(entry.bytes for entry in self.files.values())


def describe_files(
    folder: Path, report: ProgressCallback = ignore_progress
) -> dict[str, FileEntry]:
    """Return the size and hash of every file below a folder."""
    return {
        name: FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path, report))
        for name, path in files_in(folder).items()
    }


def write_manifest(manifest: ModelManifest, folder: Path) -> None:
    """Write the manifest into its model's folder and give all files its mode.

    safetensors makes its files readable by their owner alone, whatever the umask; a daemon that
    runs as another user has to read them too.
    """
    path = folder / MANIFEST_NAME
    path.write_text(manifest.model_dump_json(indent=2) + "\n")
    for name in manifest.files:
        (folder / name).chmod(path.stat().st_mode)


def read_manifest(folder: Path) -> ModelManifest:
    """Read the manifest of a model's folder.

    Raises:
        ManifestError: it is missing, not a manifest, or written by a newer version.

    """
    path = folder / MANIFEST_NAME
    try:
        manifest = ModelManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"{MANIFEST_NAME}: missing") from None
    except (OSError, ValidationError) as error:
        raise ManifestError(f"{MANIFEST_NAME}: cannot be read as a manifest") from error
    if manifest.format_version > FORMAT_VERSION:
        raise ManifestError(
            f"{MANIFEST_NAME}: format {manifest.format_version} is newer than {FORMAT_VERSION}, "
            "the newest this version of SOVL reads"
        )
    return manifest


def has_its_sizes(manifest: Listing, folder: Path) -> bool:
    """Tell whether every listed file is there in its size: quick, reads no contents."""
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry.bytes
        for name, entry in manifest.files.items()
    )


def find_faults(
    manifest: Listing,
    folder: Path,
    report: ProgressCallback = ignore_progress,
    *,
    unlisted: Collection[str] = (MANIFEST_NAME,),
) -> list[str]:
    """Compare a folder with its manifest, hashing every file; one line a fault.

    Files named in `unlisted` are not expected in the manifest.
    """
    present = files_in(folder)
    unknown = present.keys() - manifest.files.keys() - set(unlisted)
    faults = [f"{name}: not in the manifest" for name in sorted(unknown)]
    for name, entry in sorted(manifest.files.items()):
        path = present.get(name)
        if path is None or not path.is_file():
            faults.append(f"{name}: missing")
        elif (size := path.stat().st_size) != entry.bytes:
            faults.append(f"{name}: {size} bytes instead of {entry.bytes}")
        elif sha256_of(path, report) != entry.sha256:
            faults.append(f"{name}: wrong sha256")
    return faults
