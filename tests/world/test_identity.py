"""A thing is what it is, not what it is called, what shape it has, or where a link leads."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.client import CommandError
from sovl_daemon.models import ModelError, ModelExists, ModelStore
from sovl_daemon.models.identity import identity
from sovl_daemon.state import Contents, Origin, StateLocked, StateStore
from sovl_daemon.testing import Daemon, running
from tests import tiny_models
from tests.world import situation


def learned_on(folder: Path, name: str) -> Origin:
    """What a state says that was learned on the model in a folder, as base and scaffold."""
    found = identity(folder)
    parts = {"weights": found.weights, "vocabulary": found.vocabulary}
    digests = {f"{role}.{part}": parts[part] for role in ("base", "scaffold") for part in parts}
    return Origin(base=name, scaffold=name, memory="", digests=digests)


@pytest.fixture
def twins(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """The settings of a daemon with one model, and another of the same shape."""
    settings = tiny_models.settings(tmp_path)
    return settings, tiny_models.save(tiny_models.llama(seed=7), tmp_path / "twin")


@situation("own", "What was learned on one model never steers another of the same shape.")
def test_a_state_of_another_base_of_the_same_shape(
    runtime: Path, twins: tuple[dict[str, Any], Path]
) -> None:
    settings, twin = twins
    store = StateStore(runtime / "state")
    with store.writer(keep=5) as writer:
        writer.commit(Contents(), learned_on(twin, str(twin)), reason="night", interactions=[1])
    with running(runtime, **settings) as daemon:
        reason = daemon.logged("state.unfit")["reason"]
        assert "another base" in reason
        assert str(twin) in reason
        assert settings["core_config.base_model_name"] in reason
        with daemon.client() as client:
            assert client.ask("generate", prompt="Hi!")["tokens"] > 0
            with pytest.raises(CommandError, match=r"000001: it was learned on another base"):
                client.ask("load", name="1")
            with pytest.raises(CommandError, match="nothing is learned: 000001"):
                client.ask("train", force=True)
            assert store.numbers() == [1]
            client.ask("reset")
        assert store.numbers() == [1, 2]
        # The name that is configured for the next start is not what has been loaded.
        daemon.sovl("config", "core_config.base_model_name", str(twin))
        with daemon.client() as client, pytest.raises(CommandError, match="another base"):
            client.ask("load", name="1")
    assert store.numbers() == [1, 2]


@situation("predibase/lorax#58", "What was trained on another base is refused, before any change.")
def test_a_refused_load_without_a_daemon(runtime: Path, twins: tuple[dict[str, Any], Path]) -> None:
    settings, twin = twins
    models = ModelStore(Path(settings["store.model_dir"]))
    models.pull(settings["core_config.base_model_name"])
    store = StateStore(runtime / "state")
    with store.writer(keep=5) as writer:
        writer.commit(Contents(), learned_on(twin, "tiny"), reason="night")
        writer.save("mine")
    daemon = Daemon(runtime)
    for key, value in settings.items():
        if key.startswith(("core_config.base", "core_config.scaffold", "store.")):
            daemon.environment[f"SOVL_{key.upper().replace('.', '__')}"] = str(value)
    answer = daemon.sovl("state", "load", "mine")
    assert answer.returncode == 1
    assert "get the base back that it was learned on" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert store.numbers() == [1]


@situation("own", "A state folder is locked by whichever path it is reached.")
def test_one_writer_by_any_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    with StateStore(tmp_path / "state").writer(keep=5), pytest.raises(StateLocked):
        StateStore(tmp_path / "link").writer(keep=5).__enter__()


def of_a_hub(folder: Path, name: str, file: Path) -> Path:
    """A file as a hub's cache keeps it: a link by its name to a blob without one."""
    blob = folder / "blobs" / ("5e" * 32)
    link = folder / "snapshots" / "c0ffee" / name
    for parent in (blob.parent, link.parent):
        parent.mkdir(parents=True)
    file.rename(blob)
    link.symlink_to(Path("../..") / "blobs" / blob.name)
    return link


@situation(
    "Hal0ai/hal0#1415", "A GGUF in a hub's cache is a link to a blob, and works by its name."
)
def test_a_gguf_that_is_a_link_to_a_hub_s_blob(tmp_path: Path) -> None:
    file = tiny_models.save_gguf(tmp_path / "file.gguf")
    link = of_a_hub(tmp_path / "hub", "Mind-Q8_0.gguf", file)
    store = ModelStore(tmp_path / "store")
    manifest = store.pull(str(link))
    assert manifest.name == "Mind-Q8_0"
    assert manifest.source == f"file:{link.resolve()}"
    assert store.resolve(str(link)) == store.root / "Mind-Q8_0"


@situation("Layr-Labs/d-inference#260", "A model's folder may be a link, and is called as it is.")
def test_a_folder_behind_a_link_that_is_led_elsewhere(tmp_path: Path) -> None:
    one = tiny_models.save(tiny_models.llama(), tmp_path / "v1")
    other = tiny_models.save(tiny_models.llama(seed=1), tmp_path / "v2")
    (tmp_path / "latest").symlink_to(one)
    store, given = ModelStore(tmp_path / "store"), str(tmp_path / "latest")
    assert store.pull(f"{given}/").name == "latest"
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(other)
    with pytest.raises(ModelExists, match=rf"came from folder:{one}, not from folder:{other}"):
        store.resolve(given)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("MIND.GGUF", "MIND"),
        ("My Model (v2).gguf", "My-Model-v2"),
        ("naïve\n模型.gguf", "na-ve"),
        ("a..b.gguf", "a-b"),
    ],
)
@situation("own", "A file is a model whatever its name: the name in the store is made to fit.")
def test_names_that_files_have(given: str, name: str, tmp_path: Path) -> None:
    file = tiny_models.save_gguf(tmp_path / given)
    store = ModelStore(tmp_path / "store")
    assert store.pull(str(file)).name == name
    assert store.verify(name) == []


@situation("own", "A model's file that was replaced between two starts is not taken for the old.")
def test_a_source_that_was_replaced_between_two_starts(tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.llama(), tmp_path / "mind")
    store = ModelStore(tmp_path / "store")
    store.pull(str(folder))
    assert store.resolve(str(folder)) == store.root / "mind"
    tiny_models.save(tiny_models.llama(seed=1), folder)
    with pytest.raises(ModelExists, match="has changed since mind was pulled"):
        store.resolve(str(folder))


@situation("own", "Weights laid over a stored model are not taken for what was pulled.")
def test_a_stored_model_that_was_replaced_in_place(tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.llama(), tmp_path / "mind")
    store = ModelStore(tmp_path / "store")
    stored = store.root / store.pull(str(folder)).name
    tiny_models.llama(seed=1).half().save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", stored)
    with pytest.raises(ModelError, match=r"mind in .* is not what was pulled"):
        store.resolve(str(folder))
    assert store.pull(str(folder), force=True).name == "mind"
    assert store.resolve(str(folder)) == stored
