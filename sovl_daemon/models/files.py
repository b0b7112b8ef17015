"""Hashing and discarding files, and asking for room before writing them."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sovl_daemon.models.errors import NoSpace
from sovl_daemon.models.progress import ProgressCallback, StageProgress, ignore_progress

_CHUNK_BYTES = 1 << 22


def chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Read a stream in pieces of 4 MiB."""
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def sha256_of(path: Path, report: ProgressCallback = ignore_progress) -> str:
    """Hash a file, reporting the stage `hashing` in bytes."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        for chunk in chunks(stream):
            digest.update(chunk)
            done += len(chunk)
            report(StageProgress("hashing", done, total, "B"))
    return digest.hexdigest()


def sha256_of_all(paths: list[Path], report: ProgressCallback = ignore_progress) -> str:
    """Hash several files as one: the SHA-256 of their `sha256  name` lines in order of name."""
    lines = (f"{sha256_of(path, report)}  {path.name}\n" for path in sorted(paths))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def files_in(folder: Path) -> dict[str, Path]:
    """Return every file below a folder by its path relative to it, with forward slashes."""
    found = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in found}


def discard(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a whole folder, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Check that the disk of a folder has room.

    Raises:
        NoSpace: it has less than `needed_bytes` free.

    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise NoSpace(
            f"not enough disk space in {folder}: {needed_bytes / 1e6:,.0f} MB needed, "
            f"{free_bytes / 1e6:,.0f} MB free; make room or choose another model folder"
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def bytes_below(folder: Path) -> int:
    """Sum the sizes of all files in a folder and below; what vanishes meanwhile does not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                continue  # pip moved it away meanwhile
    return total
