"""What is given as a model and is none, or not all of one: a line says what, and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from sovl_daemon.models import ConversionError, ModelError, ModelStore
from sovl_daemon.models.identity import identity
from tests import tiny_models
from tests.world import situation

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_models.save(tiny_models.llama(), tmp_path / "mind")


def split(path: Path, count: int = 3) -> list[Path]:
    """Cut a GGUF file into parts, as llama.cpp's tool does."""
    reader = gguf.GGUFReader(path)
    tensors, parts = reader.tensors, []
    for number in range(count):
        part = path.with_name(f"{path.stem}-{number + 1:05}-of-{count:05}.gguf")
        writer = gguf.GGUFWriter(part, "llama")
        if number == 0:
            for name, field in reader.fields.items():
                if name != "general.architecture" and not name.startswith("GGUF."):
                    of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                    writer.add_key_value(name, field.contents(), field.types[0], sub_type=of)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(tensors))
        for each in tensors[number::count]:
            writer.add_tensor(each.name, each.data, raw_dtype=each.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        parts.append(part)
    return parts


def refused(store: ModelStore, given: Path) -> str:
    """The line with which a pull is refused; nothing is left behind."""
    with pytest.raises(ModelError) as caught:
        store.pull(str(given))
    assert store.names() == []
    assert [path.name for path in store.root.iterdir() if path.name != ".locks"] == []
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert str(given.parent) in said or given.name in said
    return said


@situation("lmstudio-ai/lmstudio-js#22", "A split GGUF works by its first part, and any other.")
def test_a_split_gguf_is_put_together(store: ModelStore, tmp_path: Path) -> None:
    file = tiny_models.save_gguf(tmp_path / "mind.gguf")
    whole = identity(store.root / store.pull(str(file)).name)
    first, second, _ = split(file)
    file.unlink()
    store.remove("mind")
    manifest = store.pull(str(second))
    assert manifest.name == "mind"
    assert identity(store.root / "mind") == whole
    assert store.pull(str(first)) == manifest


@situation("ggml-org/llama.cpp#15164", "A split GGUF names the parts that are not beside it.")
def test_missing_parts_are_named(store: ModelStore, tmp_path: Path) -> None:
    first, second, third = split(tiny_models.save_gguf(tmp_path / "mind.gguf"))
    second.unlink()
    for given in (first, third):
        said = refused(store, given)
        assert f"is one of 3 parts, and {second.name} is not in {tmp_path}" in said
    alone = first.rename(tmp_path / "renamed.gguf")
    assert "is one of 3 parts: name them all as they were" in refused(store, alone)


@situation("microsoft/OmniParser#34", "A pointer, page or message in a model's place is named.")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (LFS, "is a pointer of Git LFS, not the file: run git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b'{"error":"Invalid credentials"}', "a server's error message"),
        (b"PK\x03\x04rest", "pickled checkpoint, never loaded"),
        (b"GGUF" + (9).to_bytes(4, "little") + bytes(64), "is GGUF of version 9"),
        (b"lmgg" + bytes(64), "the format before GGUF"),
        (bytes(range(1, 65)), "is no GGUF or safetensors file"),
    ],
    ids=["empty", "pointer", "page", "message", "pickle", "version", "ggml", "noise"],
)
def test_a_file_that_is_no_gguf(
    content: bytes, says: str, store: ModelStore, tmp_path: Path
) -> None:
    (tmp_path / "mind.gguf").write_bytes(content)
    assert says in refused(store, tmp_path / "mind.gguf")


@situation("own", "A GGUF file that was not fetched to its end says so.")
def test_a_gguf_that_is_cut_off(store: ModelStore, tmp_path: Path) -> None:
    file = tiny_models.save_gguf(tmp_path / "mind.gguf")
    file.write_bytes(file.read_bytes()[:-5000])
    assert "is cut off or damaged" in refused(store, file)


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')


def lacking_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny_models.llama().save_pretrained(folder, max_shard_size="50KB")
    next(iter(sorted(folder.glob("model-00002-*")))).unlink()


def shard_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"weight_map": {"lm_head.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(LFS)


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def eighths(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configured(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))

    change.__name__ = next(iter(changes))
    return change


def only_gguf(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    tiny_models.save_gguf(folder / "mind.Q8_0.gguf")


def page(folder: Path) -> None:
    (folder / "config.json").write_text("<html>404</html>")


FOLDERS: list[tuple[Callable[[Path], None], str]] = [
    (no_tokenizer, "has no tokenizer: put the original's tokenizer.json"),
    (adapter, r"is an adapter \(LoRA\), not a model: merge it into owner/base"),
    (lacking_shard, r"lacks 1 of its \d+ files of weights: model-00002-of-"),
    (shard_outside, r"an index that names '\.\./other\.safetensors', outside of it"),
    (pickled, r"has no model\.safetensors; .* may run code: convert it to safetensors"),
    (pointer, "is a pointer of Git LFS"),
    (cut_off, r"is cut off after 0\.\d MB"),
    (nan, "model.norm.weight holds values that are not finite; fetch the model again"),
    (eighths, r"is quantised \(F8_E4M3\); pull the original"),
    (page, r"config\.json is a web page"),
    (only_gguf, r"a folder with GGUF files: give the path of one of them: mind\.Q8_0\.gguf"),
    (configured(architectures=["BertForMaskedLM"]), "is a BertForMaskedLM, which does not go on"),
    (configured(quantization_config={"quant_method": "awq"}), r"is quantised \(awq\); pull the"),
    (configured(quantization={"bits": 4, "group_size": 64}), r"is quantised \(MLX\)"),
    (configured(hidden_size=64), "other shapes than its config.json says"),
    (configured(model_type="thing-2030"), "kind is newer than this transformers"),
]


@situation("huggingface/transformers#27923", "What a folder is or lacks is said in a line.")
@pytest.mark.parametrize(("spoil", "says"), FOLDERS, ids=[each[0].__name__ for each in FOLDERS])
def test_a_folder_that_is_no_language_model(
    spoil: Callable[[Path], None], says: str, store: ModelStore, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ConversionError, match=says):
        refused_by(store, folder)


def refused_by(store: ModelStore, folder: Path) -> None:
    try:
        store.pull(str(folder))
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
        assert store.names() == []
        raise
