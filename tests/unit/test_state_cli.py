"""`sovl state`, on a folder of its own; with a daemon it is a matter of the daemon's commands."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sovl_daemon.cli import app, exits, render
from sovl_daemon.state import Contents, StateStore
from sovl_daemon.testing import Daemon
from tests.states import ORIGIN, mind, number_in
from tests.unit.test_state_store import commit


class Sovl:
    """The command, with no daemon and a home of its own."""

    def __init__(self, home: Path) -> None:
        self.store = StateStore(home / "state" / "sovl")

    def __call__(self, *words: str) -> Result:
        result: Result = CliRunner().invoke(app.app, ["state", *words])
        return result

    def json(self, *words: str) -> Any:
        result = self(*words, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def sovl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sovl:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(render.console, "width", 200)
    for variable in ("SOVL_CONNECT", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    return Sovl(tmp_path)


def test_nothing_yet(sovl: Sovl) -> None:
    assert "nothing has been learned yet" in sovl("list").stdout
    assert sovl.json("list") == {
        "state_dir": str(sovl.store.root),
        "generations": [],
        "current": None,
        "saves": [],
        "candidate": False,
        "damaged": [],
    }
    shown = sovl("show")
    assert shown.exit_code == exits.FAILED
    assert shown.stderr == (
        f"sovl: no generation in {sovl.store.root}: nothing has been learned or saved yet\n"
    )
    assert not sovl.store.root.exists()


def test_lists(sovl: Sovl) -> None:
    commit(sovl.store, 1, 2, 3)
    assert sovl("save", "monday").exit_code == 0
    (sovl.store.folder(2) / "mind.json").write_text("")
    with sovl.store.writer(keep=9) as writer:
        writer.checkpoint(mind(4), ORIGIN, progress={}, interactions=[])
    text = sovl("list").stdout
    assert re.search(r"000001 .*night 1 .* 1 of 1 .* base +scaffold", text)
    assert re.search(r"000002 .*damaged: a file is missing or has another size", text)
    assert re.search(r"monday .*night 3 .* 1 of 3 ", text)
    assert "current: 3\n" in text
    assert "a night is unfinished" in text
    listed = sovl.json("list")
    assert [row["name"] for row in listed["generations"]] == ["000001", "000002", "000003"]
    assert [bool(row["fault"]) for row in listed["generations"]] == [False, True, False]
    assert listed["generations"][2]["interactions"] == [3]
    assert (listed["current"], listed["candidate"]) == (3, True)


def test_shows(sovl: Sovl) -> None:
    commit(sovl.store, 7)
    shown = sovl.json("show")
    assert (shown["number"], shown["interactions"], shown["mind"]["number"]) == (1, [7], 7)
    assert shown["files"].keys() >= {"fusion.safetensors", "mind.json"}
    assert re.search(r"files +fusion.safetensors \d+ B, ", sovl("show", "1").stdout)


def test_damage_and_unknown_names_are_one_line(sovl: Sovl) -> None:
    commit(sovl.store, 1, 2)
    (sovl.store.folder(2) / "mind.json").write_text("")
    for words, message in (
        (("show", "2"), r"generation 2: mind.json: 0 bytes instead of \d+; see: sovl state list"),
        (("show", "9"), r"no generation 9 in .*"),
        (("load", "monday"), r"no save 'monday' in .*"),
        (("save", "../x"), r"'../x' cannot name a save; .*"),
        (("prune", "monday"), r"no save 'monday' in .*"),
    ):
        result = sovl(*words)
        assert (result.exit_code, result.stdout) == (exits.FAILED, "")
        assert re.fullmatch(f"sovl: {message}\n", result.stderr)


def test_compares(sovl: Sovl) -> None:
    commit(sovl.store, 1, 2)
    found = sovl.json("diff", "1", "2")
    changes = {each["name"]: each for each in found["tensors"]}
    assert changes.keys() == {"fusion.0.q", "scaffold.lora_A"}
    assert changes["fusion.0.q"]["change"] == "changed"
    assert changes["fusion.0.q"]["relative"] == pytest.approx(1)
    assert changes["fusion.0.q"]["norm"] == pytest.approx(8**0.5)
    assert found["same_tensors"] == 1
    assert {"name": "number", "before": 1, "after": 2} in found["mind"]
    assert {"name": "temperament.score", "before": 0.001, "after": 0.002} in found["mind"]
    assert (found["token_weights"], found["learned"], found["unlearned"]) == (1, [2], [])
    text = sovl("diff", "1").stdout
    assert re.search(r"fusion\.0\.q +changed +100\.00% +2\.83", text)
    assert "2 tensors differ, 1 are the same" in text
    assert "temperament.score: 0.001 -> 0.002" in text
    assert "1 interactions learned, 0 no longer learned" in text
    assert sovl.json("diff", "2", "2")["tensors"] == []


def test_compares_with_a_fresh_mind(sovl: Sovl) -> None:
    commit(sovl.store, 1)
    sovl("reset")
    found = sovl.json("diff", "1", "2")
    assert {each["change"] for each in found["tensors"]} == {"removed"}
    assert (found["learned"], found["unlearned"]) == ([], [1])
    assert {"name": "number", "before": 1, "after": None} in found["mind"]
    back = sovl.json("diff", "2", "1")
    assert {each["change"] for each in back["tensors"]} == {"added"}


def test_compares_zeros_and_shapes(sovl: Sovl) -> None:
    import numpy as np

    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    with sovl.store.writer(keep=9) as writer:
        writer.commit(Contents(fusion={"a": zero, "b": zero}), ORIGIN, reason="night")
        writer.commit(Contents(fusion={"a": one, "b": zero[:1]}), ORIGIN, reason="night")
    a, b = sovl.json("diff", "1", "2")["tensors"]
    assert (a["relative"], a["norm"]) == (None, pytest.approx(2**0.5))
    assert (b["change"], b["norm"]) == ("reshaped", None)


def test_saves_loads_and_resets_without_a_daemon(
    sovl: Sovl, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(sovl.store, 1)
    assert "it was learned on another base, base" in sovl("load", "1").stderr
    assert sovl.store.numbers() == [1]
    for role in ("BASE", "SCAFFOLD"):
        monkeypatch.setenv(f"SOVL_CORE_CONFIG__{role}_MODEL_NAME", role.lower())
    assert sovl.json("save")["saved"] == "state"
    commit(sovl.store, 2)
    assert sovl.json("save")["saved"] == "state"
    assert number_in(sovl.store.find("state")) == 2
    assert sovl.json("load", "1")["number"] == 3
    assert number_in(sovl.store.find("current")) == 1
    assert sovl.json("load")["loaded"] == "state"
    assert number_in(sovl.store.find("current")) == 2
    assert sovl.json("reset")["reason"] == "reset"
    assert sovl.store.find("current").mind() == {}
    assert sovl("load", "1").stdout == (
        "1 loaded: it is generation 6 now; to undo: sovl state load 5\n"
    )
    assert sovl("save", "a").stdout == "generation 6 saved as a\n"
    assert sovl("reset").stdout == (
        "generation 7 has learned nothing; to undo: sovl state load 6\n"
    )


def test_a_named_save_is_replaced_by_force_alone(sovl: Sovl) -> None:
    commit(sovl.store, 1)
    assert sovl("save", "a").exit_code == 0
    commit(sovl.store, 2)
    refused = sovl("save", "a")
    assert (refused.exit_code, "to replace it add --force" in refused.stderr) == (1, True)
    assert sovl("save", "a", "--force").exit_code == 0
    assert number_in(sovl.store.find("a")) == 2


def test_the_configured_prefix_names_the_save(sovl: Sovl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVL_CONTROLS_CONFIG__SAVE_PATH_PREFIX", "mine")
    commit(sovl.store, 1)
    assert sovl.json("save")["saved"] == "mine"
    assert sovl.store.save_names() == ["mine"]


def test_prunes(sovl: Sovl, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(sovl.store, *range(1, 9))
    sovl("save", "a")
    (sovl.store.folder(8) / "mind.json").unlink()
    with sovl.store.writer(keep=9) as writer:
        writer.load()
    assert sovl.json("prune") == {"generations": [1, 2], "saves": [], "damaged": []}
    monkeypatch.setenv("SOVL_STATE__KEEP", "3")
    assert sovl("prune", "a", "--damaged").stdout == (
        "removed generations: 3, 4; saves: a; damaged: 000008\n"
    )
    assert sovl("prune", "--keep", "1").stdout == "removed generations: 5, 6\n"
    assert sovl("prune").stdout == "nothing to remove\n"
    assert sovl.store.numbers() == [7]


def test_another_folder(sovl: Sovl, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "other")
    commit(store, 1)
    assert sovl.json("list", "--state-dir", str(store.root))["current"] == 1
    assert sovl.json("save", "a", "--state-dir", str(store.root))["saved"] == "a"
    assert store.save_names() == ["a"]
    assert not sovl.store.root.exists()


def test_a_locked_folder_is_one_line(sovl: Sovl) -> None:
    commit(sovl.store, 1)
    with sovl.store.writer(keep=5):
        result = sovl("reset")
    assert (result.exit_code, result.stdout) == (exits.FAILED, "")
    assert "another process writes the state" in result.stderr
    assert sovl.store.numbers() == [1]


def test_a_named_daemon_that_is_down_is_not_passed_over(
    sovl: Sovl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit(sovl.store, 1)
    monkeypatch.setenv("SOVL_CONNECT", str(tmp_path / "elsewhere"))
    result = sovl("reset")
    assert result.exit_code == exits.DOWN
    assert sovl.store.numbers() == [1]


def test_a_running_daemon_is_asked(echo_daemon: Daemon) -> None:
    store = StateStore(echo_daemon.root / "state")
    commit(store, 1)
    done = echo_daemon.sovl("state", "reset")
    assert done.returncode == exits.UNKNOWN_COMMAND
    assert "no such command" in done.stderr
    assert "stop the daemon with sovl stop" in done.stderr
    assert store.numbers() == [1]
    assert json.loads(echo_daemon.sovl("state", "show", "--json").stdout)["number"] == 1
