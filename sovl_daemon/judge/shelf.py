"""Where probes are: the shipped one in the package, others in the state directory."""

from __future__ import annotations

from pathlib import Path

from sovl_daemon.engine.errors import ArtifactError
from sovl_daemon.engine.judging.probe import Probe, load_probe
from sovl_daemon.models.errors import ManifestError
from sovl_daemon.models.files import sha256_of
from sovl_daemon.models.manifest import read_manifest
from sovl_daemon.models.progress import ignore_progress

SHIPPED = Path(__file__).parent / "shipped"
FOLDER = "probes"
_SUFFIX = ".safetensors"


def identity(model: Path) -> str:
    """What a probe belongs to: the hash of what the model in a folder was made of.

    Raises:
        ArtifactError: there are no weights in the folder.

    """
    try:
        return read_manifest(model).source_sha256
    except ManifestError:
        weights = sorted(model.glob(f"*{_SUFFIX}"))
    if not weights:
        raise ArtifactError(f"{model}: no weights, so no probe belongs to it")
    return " ".join(sha256_of(each, ignore_progress) for each in weights)


def probe_path(state_dir: Path, model: Path) -> Path:
    """Where the probe of a model is kept."""
    return state_dir / FOLDER / f"{model.name}{_SUFFIX}"


def find_probe(state_dir: Path, model: Path) -> Probe | None:
    """The probe of the model in a folder: the user's own, else a shipped one; None without.

    Raises:
        ArtifactError: the user's own is damaged, or of another model.

    """
    known = identity(model)
    own = probe_path(state_dir, model)
    if own.exists():
        return load_probe(own, known)
    for path in sorted(SHIPPED.glob(f"*{_SUFFIX}")):
        probe = load_probe(path)
        if probe.card.identity == known:
            return probe
    return None
