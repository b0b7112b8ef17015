"""The manifest of a generation: where it comes from, what it learned, what its files hash to."""

import hashlib
import json
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from sovl_daemon.models.manifest import FileEntry
from sovl_daemon.state.errors import Damaged, NewerFormat, NotStorable
from sovl_daemon.state.learned import LearnedRun, ids_of, learned_of
from sovl_daemon.state.migrations import FORMAT_VERSION, upgraded

MANIFEST_NAME = "manifest.json"
SEAL_NAME = "manifest.sha256"

_SEALED_SINCE = 2


class GenerationManifest(BaseModel):
    """Everything about one generation but its contents.

    `format_version` is that of the files on disk. `parent` is the generation it was made from.
    `base` and `scaffold` are names of models, and `digests` what these are (see `Origin`).
    `metrics` are those of its night. `learned` lists all interactions that its weights have
    learned, those of its ancestors too; the ids are those of the interaction store whose identity
    is `memory` (empty: of whichever there is). `files` lists all files but the manifest and its
    seal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    number: int = Field(ge=1)
    parent: int | None = None
    created: AwareDatetime
    reason: str
    base: str = ""
    scaffold: str = ""
    digests: dict[str, str] = {}
    metrics: dict[str, JsonValue] = {}
    memory: str = ""
    learned: tuple[LearnedRun, ...] = ()
    files: dict[str, FileEntry]

    @property
    def total_bytes(self) -> int:
        """Return the size of all files together."""
        return sum(entry.bytes for entry in self.files.values())

    @property
    def interactions(self) -> list[int]:
        """Return the interactions that this very generation learned."""
        return ids_of(self.learned, self.number)

    def learned_from(self, memory: str) -> dict[int, int]:
        """Return the generation by interaction, of those in the store with that identity.

        Empty if the ids are another store's: they would name interactions that were never learned.
        """
        return learned_of(self.learned) if self.memory in ("", memory) else {}


def write_manifest(manifest: GenerationManifest, folder: Path) -> None:
    """Write the manifest and, beside it, its hash.

    Raises:
        NotStorable: the metrics hold NaN or infinity, which JSON does not have.

    """
    document = manifest.model_dump() | {"created": manifest.created.isoformat()}
    text = json_text(document)
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    (folder / SEAL_NAME).write_text(_seal(text.encode()), encoding="utf-8")


def read_manifest(folder: Path) -> GenerationManifest:
    """Read the manifest of a generation, of this or an older format.

    Raises:
        Damaged: it is missing, not what was written, or no manifest.
        NewerFormat: a newer version of SOVL wrote it.

    """
    data = _bytes_of(folder / MANIFEST_NAME)
    sealed = (folder / SEAL_NAME).exists()
    if sealed and _bytes_of(folder / SEAL_NAME) != _seal(data).encode():
        raise Damaged(f"{MANIFEST_NAME}: wrong sha256")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{MANIFEST_NAME}: no JSON") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is not int or version < 1:
        raise Damaged(f"{MANIFEST_NAME}: cannot be read as a manifest")
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"{MANIFEST_NAME}: format {version} is newer than {FORMAT_VERSION}, the newest this "
            "version of SOVL reads; update SOVL"
        )
    if version >= _SEALED_SINCE and not sealed:
        raise Damaged(f"{SEAL_NAME}: missing")
    try:
        return GenerationManifest.model_validate(upgraded(document, version))
    except (ValidationError, KeyError, TypeError) as error:
        raise Damaged(f"{MANIFEST_NAME}: cannot be read as a manifest") from error


def json_text(document: object) -> str:
    """Return a document as JSON for a file.

    Raises:
        NotStorable: JSON has no form for it.

    """
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStorable(f"the state holds what JSON cannot: {error}") from error
    return text


def _seal(data: bytes) -> str:
    """The line that `sha256sum --check` reads."""
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST_NAME}\n"


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path.name}: missing") from None
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror}") from error
