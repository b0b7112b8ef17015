"""Knobs that are turned while a daemon with a tiny model lives, and what comes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.client import CommandError
from sovl_daemon.state import StateStore
from sovl_daemon.testing import Daemon, running
from tests.torture.night_kills import settings_for

CORE = "core_config"
TRAINING = "training_config"
CONTROLS = "controls_config"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = settings_for(tmp_path_factory.mktemp("models"))
    with running(tmp_path_factory.mktemp("knobs"), **settings) as started:
        yield started


def turn(daemon: Daemon, key: str, value: object) -> None:
    with daemon.client() as client:
        client.control("config_set", key=key, value=json.dumps(value))


def trained(
    daemon: Daemon, file: Path, *, pairs: int = 12, **args: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The steps of a training, and its result."""
    each = [{"prompt": f"What is {n}?", "response": "A number."} for n in range(pairs)]
    file.write_text("\n".join(map(json.dumps, each)))
    with daemon.client() as client:
        *told, result = client.stream("train", file=str(file), fresh=True, **args)
    return [each for each in told if "step" in each], result


def test_patience_bounds_how_long_it_gets_no_better(daemon: Daemon, tmp_path: Path) -> None:
    turn(daemon, f"{TRAINING}.learning_rate", 1)  # far too much: it only gets worse
    epochs = []
    for patience in (1, 4):
        turn(daemon, f"{TRAINING}.max_patience", patience)
        epochs.append(trained(daemon, tmp_path / "pairs.jsonl", epochs=30)[1]["epochs"])
    turn(daemon, f"{TRAINING}.learning_rate", 8e-3)
    assert epochs[0] < epochs[1] < 30


@pytest.mark.parametrize(("ratio", "pairs"), [(0.0, 12), (0.2, 1)])
def test_what_cannot_be_validated_is_kept_and_said_so(
    daemon: Daemon, tmp_path: Path, ratio: float, pairs: int
) -> None:
    turn(daemon, f"{CORE}.valid_split_ratio", ratio)
    steps, result = trained(daemon, tmp_path / "pairs.jsonl", pairs=pairs, epochs=3)
    turn(daemon, f"{CORE}.valid_split_ratio", 0.2)
    assert {each["epoch"] for each in steps} == {1, 2, 3}
    assert result["text"].startswith("Nothing was validated, as no pair was held back, generation")
    assert (result["before"], result["validation"], result["epochs"]) == (None, None, 3)
    kept = StateStore(daemon.root / "state").find(str(result["generation"]))
    assert kept.manifest.reason == "train"


def test_what_is_trained_steers_though_it_does_not_train_while_it_sleeps(
    daemon: Daemon, tmp_path: Path
) -> None:
    with daemon.client() as client:
        client.ask("reset")
    turn(daemon, f"{CONTROLS}.enable_sleep_training", False)
    turn(daemon, f"{CORE}.valid_split_ratio", 0.0)
    trained(daemon, tmp_path / "pairs.jsonl", epochs=1)
    turn(daemon, f"{CORE}.valid_split_ratio", 0.2)
    turn(daemon, f"{CONTROLS}.enable_sleep_training", True)
    with daemon.client() as client:
        assert client.ask("mind")["influence"] > 0


def test_pairs_are_taken_from_the_file_that_is_set(daemon: Daemon, tmp_path: Path) -> None:
    for name in ("one.jsonl", "other.jsonl"):
        file = tmp_path / name
        file.write_text('{"prompt": "What is 1?", "response": "A number."}\n')
        turn(daemon, "store.training_file", str(file))
        with daemon.client() as client:
            told = "".join(each.get("text", "") for each in client.stream("train", epochs=1))
        assert f"1 pairs of {name}" in told


def test_a_dry_run_waits_for_the_next_start(daemon: Daemon, tmp_path: Path) -> None:
    turn(daemon, f"{TRAINING}.dry_run", True)
    daemon.worker().kill()  # of one process alone it would be half a dry run
    daemon.logged("child.restarting")
    daemon.wait()
    turn(daemon, f"{CORE}.valid_split_ratio", 0.0)
    result = trained(daemon, tmp_path / "pairs.jsonl", epochs=1)[1]
    written = json.loads((daemon.root / "state" / "mind.json").read_text())
    with daemon.client() as client:
        assert client.control("status")["dry_run"] is False
    turn(daemon, f"{TRAINING}.dry_run", False)
    turn(daemon, f"{CORE}.valid_split_ratio", 0.2)
    generation = StateStore(daemon.root / "state").find(str(result["generation"]))
    assert written["nights"] == generation.mind()["nights"]


def test_a_dry_run_trains_only_where_it_is_told_to(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    steps, result = trained(daemon, file, dry_run=True)
    assert steps == []
    assert result["text"].startswith("Dry run: validation loss")
    turn(daemon, f"{TRAINING}.dry_run_params.skip_training", False)
    steps, result = trained(daemon, file, dry_run=True)
    assert len(steps) >= 1
    assert result["text"].startswith("Nothing is kept: a dry run")


def test_a_save_without_a_name_gets_the_configured_one(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask("save")
        turn(daemon, f"{CONTROLS}.save_path_prefix", "mine")
        client.ask("save")
        client.ask("load")
    assert {"state", "mine"} <= set(StateStore(daemon.root / "state").save_names())


def test_a_load_says_what_was_there(daemon: Daemon) -> None:
    with daemon.client() as client:
        number = client.ask("reset")["generation"]
        loaded = client.ask("load", name=str(number))
        assert loaded["text"] == f"Loaded from {number}: a new-born mind"
        client.ask("save", name="full", force=True)
        with pytest.raises(CommandError, match=r"no save 'ful' in .* \(nearest: full\); saves: "):
            client.ask("load", name="ful")


def test_an_answer_that_repeats_is_stopped_unless_told_not_to(daemon: Daemon) -> None:
    def reasons() -> set[str]:
        with daemon.client() as client:
            asked = [
                client.ask("generate", prompt=word, temperature=0, max_tokens=40) for word in "abcd"
            ]
        return {each["finish_reason"] for each in asked}

    assert "repetition" in reasons()
    turn(daemon, f"{CONTROLS}.enable_repetition_check", False)
    assert "repetition" not in reasons()
