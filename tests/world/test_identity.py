"""A thing is what it is, not what it is called, what shape it has, or where a link leads."""

from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.client import CommandError
from sovl_daemon.models import ModelStore
from sovl_daemon.models.identity import identity
from sovl_daemon.state import Contents, Origin, StateStore
from tests import tiny_models
from tests.daemon import Daemon, running
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


@situation("own", "Without a daemon, too, a refused load leaves the current generation as it was.")
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
