"""Files that are whole on disk: a power cut leaves the old one or the new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".sovl-unfinished."  # how the name of a file begins that has no place yet
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Give a file to write to; when the block ends well it takes the place of `path`, on disk.

    Where the block, or the disk, fails, what is at `path` stays as it is. A link is followed. The
    new file has this `mode`; without one it has mode and owner of the old file, the owner as far as
    the system allows.
    """
    path = path.resolve()
    beside = path.with_name(f"{UNFINISHED}{os.getpid()}.{os.urandom(4).hex()}")
    old = path.stat() if mode is None and path.exists() else None
    wanted = old.st_mode & 0o7777 if old else mode
    # From its beginning, so that nobody opens it who may not read what is written later.
    descriptor = os.open(beside, _NEW, 0o666 if wanted is None else wanted)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if old:
                with suppress(PermissionError):  # only root may give a file away
                    os.fchown(descriptor, old.st_uid, old.st_gid)
            if wanted is not None:
                os.fchmod(descriptor, wanted)
            yield file
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sweep(folder: Path) -> None:
    """Remove what writers left there that were killed; whoever calls it is the only writer."""
    for each in folder.glob(f"{UNFINISHED}*"):
        each.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the kernel write one file, or one folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below a folder, then the folder itself."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
