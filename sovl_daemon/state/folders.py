"""Folders that are there as a whole or not at all: written beside, synced and renamed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from sovl_daemon.durable import sync, sync_tree
from sovl_daemon.models.files import discard

_SCRATCH = ".tmp-"
_RETIRED = ".old-"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give an empty folder; when the block ends well it becomes `target`, on disk and at once.

    The rename is what counts: before it nothing has changed, after it everything has. An older
    `target` is replaced; `recover` mends what an interruption between the two renames leaves.
    """
    make(target.parent)
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=target.parent))
    try:
        yield scratch
        sync_tree(scratch)
        _replace(scratch, target)
    finally:
        discard(scratch)


def make(folder: Path) -> None:
    """Make a folder and those above it, for its owner alone, and sync the names."""
    if folder.is_dir():
        return
    make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync(folder.parent)


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a folder into another that exists; copies age apart, links would not."""
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)


def remove(folder: Path) -> None:
    """Remove a folder; renamed first, so that an interruption leaves no half of it."""
    # A new name rather than a new folder: a full disk has no room for one.
    doomed = folder.with_name(f"{_SCRATCH}{folder.name}.{uuid4().hex}")
    folder.rename(doomed)
    # What cannot go now goes when the next writer recovers.
    shutil.rmtree(doomed, ignore_errors=True)


def move_aside(folder: Path, aside: Path) -> Path:
    """Move a folder below `aside`, under its own name or the next free one; return where it is."""
    make(aside)
    target, tries = aside / folder.name, 1
    while target.exists():
        tries += 1
        target = aside / f"{folder.name}.{tries}"
    folder.rename(target)
    sync(aside)
    sync(folder.parent)
    return target


def recover(parent: Path) -> None:
    """Finish or undo what an interrupted writer left; only one writer may be at work."""
    for retired in parent.glob(f"{_RETIRED}*"):
        target = parent / retired.name.removeprefix(_RETIRED)
        if not target.exists():
            retired.rename(target)
        discard(retired)
    for scratch in parent.glob(f"{_SCRATCH}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def names_in(parent: Path) -> list[str]:
    """Return the names of the folders below `parent`, in order, without those being written."""
    if not parent.is_dir():
        return []
    return sorted(
        path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _replace(scratch: Path, target: Path) -> None:
    retired = target.with_name(f"{_RETIRED}{target.name}")
    if target.exists():
        target.rename(retired)
    scratch.rename(target)
    sync(target.parent)
    discard(retired)
