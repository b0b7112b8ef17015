"""The generations of a mind in one folder, as any number of processes may read them at any time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sovl_daemon.state.errors import (
    Damaged,
    NewerFormat,
    NoSoundGeneration,
    NotFound,
    StateLocked,
)
from sovl_daemon.state.folders import make, names_in
from sovl_daemon.state.generation import Generation
from sovl_daemon.state.manifest import GenerationManifest
from sovl_daemon.state.names import checked_name, folder_name, nearest_hint, parse_number

if TYPE_CHECKING:
    from sovl_daemon.state.writer import StateWriter

CURRENT = "current"

_LOCK = "state.lock"
_TOLD = 10  # names in a message


@dataclass(frozen=True, slots=True)
class Refusal:
    """A folder that was not loaded, and why; `moved_to` is where it is kept if it was damaged.

    `newer` tells that it is not damaged, but in the format of a newer SOVL.
    """

    folder: Path
    reason: str
    newer: bool = False
    moved_to: Path | None = None

    def __str__(self) -> str:
        kept = f" (kept in {self.moved_to})" if self.moved_to else ""
        return f"{self.folder.name}: {self.reason}{kept}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found: the newest sound generation, None if there never was one.

    `refused` are those that came before it in line. `migrated_from` is the generation of an older
    format that it was made from.
    """

    generation: Generation | None
    refused: tuple[Refusal, ...] = ()
    migrated_from: int | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list: a folder, and its manifest or why it has none that can be used."""

    folder: Path
    manifest: GenerationManifest | None
    fault: str = ""


class StateStore:
    """Generations in `generations/`, named saves in `saves/`, what was refused in `damaged/`.

    The current generation is the sound one of the highest number. Going back makes a new one with
    the contents of the old: history only grows, until it is pruned.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.generations = root / "generations"
        self.saves = root / "saves"
        self.damaged = root / "damaged"
        self.candidate = root / "candidate"

    def numbers(self) -> list[int]:
        """Return the numbers of all generations, sound or not, in order."""
        found = (parse_number(name) for name in names_in(self.generations))
        return sorted(number for number in found if number is not None)

    def save_names(self) -> list[str]:
        """Return the names of all saves, in order."""
        return names_in(self.saves)

    def newest(self) -> Loaded:
        """Find the newest sound generation, comparing every byte; changes nothing on disk.

        Raises:
            NoSoundGeneration: there are generations, but none is sound.

        """
        found, refused = self._search()
        if found is None and (refused or self._lost()):
            told = "; ".join(map(str, refused)) or f"only damaged ones are left, in {self.damaged}"
            raise NoSoundGeneration(
                f"no generation in {self.root} can be loaded: {told}; go back to a save with: sovl "
                "state load NAME, or begin anew with: sovl state reset"
            )
        return Loaded(found, refused)

    def find(self, reference: str) -> Generation:
        """Return a sound generation by its number, by the name of a save, or as `current`.

        Raises:
            NotFound: there is no such generation or save.
            Damaged, NewerFormat, NoSoundGeneration: it cannot be loaded.
            InvalidSaveName: it is neither a number nor a name.

        """
        if reference == CURRENT:
            return self._current()
        number = parse_number(reference)
        if number is None:
            return _sound(self.save_folder(reference))
        if not self.folder(number).is_dir():
            raise NotFound(f"no generation {number} in {self.root}; {self._there()}")
        try:
            return self._sound(number)
        except Damaged as error:
            raise Damaged(f"generation {number}: {error}; see: sovl state list") from error
        except NewerFormat as error:
            raise NewerFormat(f"generation {number}: {error}") from error

    def save_folder(self, name: str) -> Path:
        """Return the folder of a save. Raises NotFound, InvalidSaveName."""
        folder = self.saves / checked_name(name)
        if not folder.is_dir():
            hint = nearest_hint(name, self.save_names())
            raise NotFound(f"no save {name!r} in {self.root}{hint}; {self._there()}")
        return folder

    def history(self) -> list[Listed]:
        """Return every generation in order, each looked at quickly."""
        return [_listed(self.folder(number)) for number in self.numbers()]

    def saved(self) -> list[Listed]:
        """Return every save in order, each looked at quickly."""
        return [_listed(self.saves / name) for name in self.save_names()]

    def current_number(self) -> int | None:
        """Return the number of the current generation after a quick look; None without one."""
        sound = [each.manifest.number for each in self.history() if each.manifest]
        return max(sound, default=None)

    def aside(self) -> list[Path]:
        """Return the folders that were moved aside because they were damaged."""
        return [self.damaged / name for name in names_in(self.damaged)]

    def folder(self, number: int) -> Path:
        """Return where a generation is, whether it exists or not."""
        return self.generations / folder_name(number)

    def refusals(self) -> tuple[Refusal, ...]:
        """Return what stands before the newest sound generation, or everything if none is."""
        return self._search()[1]

    @contextmanager
    def writer(self, *, keep: int) -> Iterator["StateWriter"]:
        """Become the one process that writes, until the block ends; `keep` generations stay.

        Raises:
            StateLocked: another one is.

        """
        from sovl_daemon.state.writer import StateWriter

        make(self.root)
        lock = FileLock(self.root / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StateLocked(
                f"another process writes the state in {self.root}; a running daemon does: "
                "see sovl status, or stop it with: sovl stop"
            ) from None
        try:
            yield StateWriter(self, keep=keep)
        finally:
            lock.release()

    def _search(self) -> tuple[Generation | None, tuple[Refusal, ...]]:
        refused: list[Refusal] = []
        for number in reversed(self.numbers()):
            try:
                return self._sound(number), tuple(refused)
            except (Damaged, NewerFormat) as error:
                folder = self.folder(number)
                if folder.exists():  # else a writer has pruned or moved it meanwhile
                    refused.append(Refusal(folder, str(error), isinstance(error, NewerFormat)))
        return None, tuple(refused)

    def _current(self) -> Generation:
        found = self.newest().generation
        if found is None:
            raise NotFound(f"no generation in {self.root}: nothing has been learned or saved yet")
        return found

    def _there(self) -> str:
        """Say which saves and generations there are, the last of many."""
        saves, numbers = self.save_names(), [str(number) for number in self.numbers()]
        kinds = (("saves", saves), ("generations", numbers))
        told = [f"{kind}: {', '.join(names[-_TOLD:]) or 'none'}" for kind, names in kinds]
        return f"{'; '.join(told)}; see: sovl state list"

    def _sound(self, number: int) -> Generation:
        found = Generation.sound(self.folder(number))
        if found.manifest.number != number:
            raise Damaged(f"the manifest is that of generation {found.manifest.number}")
        return found

    def _lost(self) -> bool:
        """Tell whether generations were moved aside (`000017`, `000017.2`)."""
        return any(name[0].isdigit() for name in names_in(self.damaged))


def _sound(folder: Path) -> Generation:
    try:
        return Generation.sound(folder)
    except Damaged as error:
        raise Damaged(f"save {folder.name}: {error}; see: sovl state list") from error
    except NewerFormat as error:
        raise NewerFormat(f"save {folder.name}: {error}") from error


def _listed(folder: Path) -> Listed:
    try:
        return Listed(folder, Generation.glance(folder).manifest)
    except (Damaged, NewerFormat) as error:
        return Listed(folder, None, str(error))
