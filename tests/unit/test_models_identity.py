"""A model's identity is what it is: not its name, its shape, or how its files are cut."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sovl_daemon.models.errors import ConversionError
from sovl_daemon.models.identity import identity
from tests import tiny_models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_models.save(tiny_models.llama(), tmp_path / "mind")


def test_a_copy_is_the_same_and_another_of_the_shape_is_not(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    twin = tiny_models.save(tiny_models.llama(seed=1), tmp_path / "twin")
    assert identity(copy) == identity(folder)
    assert identity(twin).weights != identity(folder).weights
    assert identity(twin).vocabulary == identity(folder).vocabulary


def test_shards_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    tiny_models.llama().save_pretrained(shards, max_shard_size="50KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    assert identity(shards).weights == identity(folder).weights


def test_one_matrix_that_was_trained_on_makes_another_model(folder: Path) -> None:
    before = identity(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert identity(folder).weights != before.weights


def test_a_vocabulary_is_which_number_each_token_has(folder: Path) -> None:
    before, path = identity(folder), folder / "tokenizer.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document, indent=7))
    assert identity(folder) == before
    vocabulary = document["model"]["vocab"]
    first, second = list(vocabulary)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(document))
    assert identity(folder).vocabulary != before.vocabulary


@pytest.mark.parametrize("content", [b"", b"\x07", b"\xff" * 9, b"\x02" + bytes(7) + b"{}"])
def test_what_cannot_be_read_is_one_line(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    if content.endswith(b"{}"):
        assert identity(folder).weights  # a model without tensors, which nothing loads
        return
    with pytest.raises(ConversionError, match=r"^\S*mind cannot be read: .*$"):
        identity(folder)
