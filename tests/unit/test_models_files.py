import hashlib
import shutil
import subprocess
import sys

import pytest

from sovl_daemon.models import NoSpace
from sovl_daemon.models.files import discard, require_space, sha256_of, sha256_of_all


def test_hash_and_progress(tmp_path):
    content = bytes(range(256)) * 40_000  # more than one chunk
    (tmp_path / "a").write_bytes(content)
    steps = []
    assert sha256_of(tmp_path / "a", steps.append) == hashlib.sha256(content).hexdigest()
    assert len(steps) > 1
    assert (steps[-1].stage, steps[-1].done, steps[-1].total) == (
        "hashing",
        len(content),
        len(content),
    )


def test_the_hash_of_several_files_knows_names_and_contents(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    both = sha256_of_all([a, b])
    assert sha256_of_all([b, a]) == both
    a.write_bytes(b"2")
    b.write_bytes(b"1")
    assert sha256_of_all([a, b]) != both


def test_discarding_a_link_spares_what_it_points_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    discard(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept" / "file").exists()
    discard(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    discard(tmp_path / "kept")


def test_room_is_asked_for(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path, free // 2)
    with pytest.raises(NoSpace, match=r"not enough disk space in .* MB needed, .* MB free; make"):
        require_space(tmp_path, free * 2)


def test_importing_the_store_loads_no_tensor_library():
    heavy = ["torch", "transformers", "huggingface_hub", "gguf", "tqdm", "numpy"]
    code = f"import sys, sovl_daemon.models; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
