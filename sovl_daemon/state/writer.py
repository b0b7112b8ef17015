"""The one process that writes: commits, saves, goes back, prunes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue, ValidationError

from sovl_daemon.models.files import discard
from sovl_daemon.models.manifest import describe_files
from sovl_daemon.state import folders
from sovl_daemon.state.contents import TRAINING, Contents
from sovl_daemon.state.errors import (
    Damaged,
    NewerFormat,
    NoSoundGeneration,
    NotReadBack,
    NotStorable,
    OtherModels,
    SaveExists,
)
from sovl_daemon.state.generation import Generation
from sovl_daemon.state.learned import runs_of, with_learned
from sovl_daemon.state.manifest import MANIFEST_NAME, SEAL_NAME, GenerationManifest, write_manifest
from sovl_daemon.state.migrations import FORMAT_VERSION, upgrade_files
from sovl_daemon.state.names import checked_name, parse_number
from sovl_daemon.state.origin import Origin, misfit
from sovl_daemon.state.store import Loaded, Refusal, StateStore


class StateWriter:
    """Get one from `StateStore.writer`; it is the only one as long as it is open.

    Every change is one rename of a folder that is complete and synced: a reader, and whoever comes
    after a crash, finds the state before it or the state after it.
    """

    def __init__(self, store: StateStore, *, keep: int) -> None:
        self.store = store
        self.keep = keep
        self._loaded: Loaded | None = None
        for parent in (store.root, store.generations, store.saves):
            folders.make(parent)
            folders.recover(parent)

    def load(self) -> Loaded:
        """Find the newest sound generation, in the newest format; every later call looks again.

        Damaged generations before it are moved aside. One of an older format is kept, and a new
        generation is made of it.

        Raises:
            NoSoundGeneration: there are generations, but none is sound; nothing was moved.

        """
        found = self.store.newest()
        refused = tuple(map(self._aside, found.refused))
        generation = found.generation
        self._loaded = replace(found, refused=refused)
        if generation is None or generation.manifest.format_version == FORMAT_VERSION:
            return self._loaded
        version, number = generation.manifest.format_version, generation.manifest.number
        try:
            new = self._copied(generation, number, f"migrated from format {version}")
            self._loaded = Loaded(new, refused, migrated_from=number)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"cannot be migrated from format {version}: {error!r}"
            damaged = self._aside(Refusal(generation.folder, reason))
            loaded = self.load()
            self._loaded = replace(loaded, refused=(*refused, damaged, *loaded.refused))
        return self._loaded

    def commit(
        self,
        contents: Contents,
        origin: Origin,
        *,
        reason: str,
        metrics: Mapping[str, JsonValue] | None = None,
        interactions: Iterable[int] = (),
    ) -> Generation:
        """Make `contents` the current generation; when this returns it survives a power cut.

        `interactions` are those that it has learned beyond its parent. An unfinished candidate
        ends with it.

        Raises:
            NotStorable: something has no form on disk; nothing has changed.
            NoSoundGeneration: there are generations, but none is sound to go on from.
            OtherModels: the one to go on from was learned on others; nothing has changed.
            OSError: the disk refused; nothing has changed.

        """
        manifest = self._next(origin, interactions, reason=reason, metrics=metrics)
        return self._install(replace(contents, training=None), manifest)

    def checkpoint(
        self,
        contents: Contents,
        origin: Origin,
        *,
        progress: Mapping[str, JsonValue],
        interactions: Iterable[int],
    ) -> None:
        """Keep an unfinished night, in place of its checkpoint before; errors as of `commit`.

        `interactions` are those that it is learning; they are not learned before the commit.
        """
        manifest = self._next(origin, interactions, reason="night", metrics=progress)
        with _writing(self.store.candidate, manifest) as folder:
            contents.write(folder)

    def candidate(self, origin: Origin) -> Loaded:
        """Return the unfinished night to go on with, if there is one.

        One that began from another generation than the current, or on other models than those of
        `origin`, is discarded, a damaged one moved aside; all are told as refused.
        """
        folder = self.store.candidate
        if not folder.exists():
            return Loaded(None)
        try:
            found = Generation.sound(folder)
        except (Damaged, NewerFormat) as error:
            moved_to = folders.move_aside(folder, self.store.damaged)
            return Loaded(None, (Refusal(folder, str(error), moved_to=moved_to),))
        current = self._current()
        number = current.number if current else None
        reason = misfit(found.manifest, origin)
        if found.manifest.parent != number:
            reason = (
                f"it began from generation {found.manifest.parent}, the current one is {number}"
            )
        if not reason:
            return Loaded(found)
        self.discard_candidate()
        return Loaded(None, (Refusal(folder, reason),))

    def discard_candidate(self) -> None:
        """Forget the unfinished night, if there is one."""
        if self.store.candidate.exists():
            folders.remove(self.store.candidate)

    def save(self, name: str, *, replacing: bool = False) -> Generation:
        """Keep a copy of the current generation under a name; it is never pruned.

        Raises:
            SaveExists: the name is taken and `replacing` is not given.
            InvalidSaveName: the name cannot be that of a save.
            NotFound: there is no generation yet.

        """
        target = self.store.saves / checked_name(name)
        if target.exists() and not replacing:
            raise SaveExists(f"there is a save {name!r} already; to replace it add --force")
        current = self.store.find("current")
        with folders.staged(target) as folder:
            folders.copy_files(current.folder, folder)
        return Generation(target, current.manifest)

    def remove_save(self, name: str) -> None:
        """Remove a save.

        Raises:
            NotFound, InvalidSaveName: there is none of that name.

        """
        folders.remove(self.store.save_folder(name))

    def restore(self, reference: str, origin: Origin | None = None) -> Generation:
        """Go back: make a new generation with the contents of an older one or of a save.

        What its weights have not learned counts as not learned again. Works as well when the
        current generations are damaged; these are moved aside. Nothing has changed where it
        raises, as `StateStore.find` does.

        Raises:
            OtherModels: it was learned on others than those of `origin`, where that is given.

        """
        source = self.store.find(reference)
        if origin is not None and (why := misfit(source.manifest, origin)):
            raise OtherModels(f"{reference}: {why}")
        with self._healing() as parent:
            return self._copied(source, parent.number if parent else None, f"load {reference}")

    def reset(self) -> Generation:
        """Begin anew, as a mind that has learned nothing, on any models; those before stay."""
        with self._healing() as parent:
            origin = Origin(base="", scaffold="", memory=parent.memory if parent else "")
            manifest = _manifest(parent, self._next_number(), origin, reason="reset", learned={})
            return self._install(Contents(), manifest)

    def prune(self, keep: int | None = None) -> list[int]:
        """Remove all but the last `keep` generations, never the current; return their numbers."""
        current = self._current()
        keeping = self.store.numbers()[-(self.keep if keep is None else max(keep, 1)) :]
        spared = {*keeping, current.number if current else None}
        doomed = [number for number in self.store.numbers() if number not in spared]
        for number in doomed:
            folders.remove(self.store.folder(number))
        return doomed

    def prune_damaged(self) -> list[str]:
        """Remove what was moved aside; return the names of the folders."""
        names = [folder.name for folder in self.store.aside()]
        for folder in self.store.aside():
            discard(folder)
        return names

    def _current(self) -> GenerationManifest | None:
        loaded = self._loaded or self.load()
        return loaded.generation.manifest if loaded.generation else None

    @contextmanager
    def _healing(self) -> Iterator[GenerationManifest | None]:
        """Give the current manifest, or None if all are damaged: then move them aside at the end.

        Not before: a crash in between shall find them as they were.
        """
        parent, refused = None, self.store.refusals()
        with suppress(NoSoundGeneration):
            parent, refused = self._current(), ()
        yield parent
        for refusal in refused:
            self._aside(refusal)

    def _next_number(self) -> int:
        aside = (parse_number(folder.name.partition(".")[0]) for folder in self.store.aside())
        known = [*self.store.numbers(), *(number for number in aside if number is not None)]
        return max(known, default=0) + 1

    def _next(
        self,
        origin: Origin,
        interactions: Iterable[int],
        *,
        reason: str,
        metrics: Mapping[str, JsonValue] | None,
    ) -> GenerationManifest:
        parent, number = self._current(), self._next_number()
        if parent is not None and (why := misfit(parent, origin)):
            raise OtherModels(f"generation {parent.number}: {why}")
        before = parent.learned_from(origin.memory) if parent else {}
        learned = with_learned(before, interactions, number)
        return _manifest(parent, number, origin, reason=reason, learned=learned, metrics=metrics)

    def _install(self, contents: Contents, manifest: GenerationManifest) -> Generation:
        target = self.store.folder(manifest.number)
        with _writing(target, manifest) as folder:
            contents.write(folder)
        return self._installed(target)

    def _copied(self, source: Generation, parent: int | None, reason: str) -> Generation:
        manifest = source.manifest.model_copy(
            update={
                "format_version": FORMAT_VERSION,
                "number": self._next_number(),
                "parent": parent,
                "created": datetime.now(UTC),
                "reason": reason,
                "metrics": {},
            }
        )
        target = self.store.folder(manifest.number)
        with _writing(target, manifest) as folder:
            folders.copy_files(source.folder, folder)
            (folder / TRAINING).unlink(missing_ok=True)
            upgrade_files(folder, source.manifest.format_version)
        return self._installed(target)

    def _installed(self, target: Path) -> Generation:
        """Read the new generation back, go on from it, and tidy up."""
        found = self.load().generation
        if found is None or found.folder != target:
            raise NotReadBack(
                f"generation {target.name} was written, but reads back as something else; the one "
                "before it stays current: check the disk"
            )
        # The commit stands; what cannot be removed now is removed after the next.
        with suppress(OSError):
            self.discard_candidate()
            self.prune()
        return found

    def _aside(self, refusal: Refusal) -> Refusal:
        """Keep a damaged generation out of the way; a newer format is sound, and stays."""
        if refusal.newer:
            return refusal
        return replace(refusal, moved_to=folders.move_aside(refusal.folder, self.store.damaged))


def _manifest(
    parent: GenerationManifest | None,
    number: int,
    origin: Origin,
    *,
    reason: str,
    learned: Mapping[int, int],
    metrics: Mapping[str, JsonValue] | None = None,
) -> GenerationManifest:
    try:
        return GenerationManifest(
            number=number,
            parent=parent.number if parent else None,
            created=datetime.now(UTC),
            reason=reason,
            base=origin.base,
            scaffold=origin.scaffold,
            digests=dict(origin.digests),
            metrics=dict(metrics or {}),
            memory=origin.memory,
            learned=runs_of(learned),
            files={},
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise NotStorable(f"the manifest cannot hold {where}: {first['msg']}") from error


@contextmanager
def _writing(target: Path, manifest: GenerationManifest) -> Iterator[Path]:
    """Give a folder for the files beside the manifest, which is added and all of it installed."""
    with folders.staged(target) as folder:
        yield folder
        for name in (MANIFEST_NAME, SEAL_NAME):
            (folder / name).unlink(missing_ok=True)
        complete = manifest.model_copy(update={"files": describe_files(folder)})
        write_manifest(complete, folder)
