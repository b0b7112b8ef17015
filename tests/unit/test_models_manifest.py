from datetime import UTC, datetime

import pytest

from sovl_daemon.models import ManifestError, ModelManifest
from sovl_daemon.models.manifest import (
    describe_files,
    find_faults,
    has_its_sizes,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(b"{}")
    return tmp_path


@pytest.fixture
def manifest(folder):
    manifest = ModelManifest(
        name="mind",
        source="folder:/x/mind",
        source_sha256="0" * 64,
        dtype="float16",
        parameters=7,
        created=datetime(2026, 1, 2, tzinfo=UTC),
        files=describe_files(folder),
    )
    write_manifest(manifest, folder)
    return manifest


def test_it_survives_the_disk(folder, manifest):
    assert read_manifest(folder) == manifest
    assert manifest.total_bytes == 9
    assert list(manifest.files) == ["config.json", "model.safetensors"]


def test_files_get_the_manifest_s_mode(folder, manifest):
    (folder / "model.safetensors").chmod(0o600)
    write_manifest(manifest, folder)
    modes = {(folder / name).stat().st_mode for name in [*manifest.files, "manifest.json"]}
    assert len(modes) == 1


def test_a_sound_folder_has_no_faults(folder, manifest):
    assert find_faults(manifest, folder) == []
    assert has_its_sizes(manifest, folder)


def test_a_flipped_byte_is_named(folder, manifest):
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert has_its_sizes(manifest, folder)
    assert find_faults(manifest, folder) == ["model.safetensors: wrong sha256"]


def test_missing_cut_and_extra_files_are_named(folder, manifest):
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"weig")
    (folder / "sub").mkdir()
    (folder / "sub" / "stranger.bin").write_bytes(b"?")
    assert not has_its_sizes(manifest, folder)
    assert find_faults(manifest, folder) == [
        "sub/stranger.bin: not in the manifest",
        "config.json: missing",
        "model.safetensors: 4 bytes instead of 7",
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "x"}', b"\xff"])
def test_rubbish_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"^manifest.json: cannot be read"):
        read_manifest(folder)


def test_a_missing_manifest_is_named(folder):
    with pytest.raises(ManifestError, match="missing"):
        read_manifest(folder)


def test_a_newer_format_is_refused(folder, manifest):
    write_manifest(manifest.model_copy(update={"format_version": 2}), folder)
    with pytest.raises(ManifestError, match="format 2 is newer than 1"):
        read_manifest(folder)
