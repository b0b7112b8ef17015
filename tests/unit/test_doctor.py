"""`sovl doctor` without a daemon: it finds what is wrong, and never fails itself."""

import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.testing import PATIENCE_S, SOVL


def doctor(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {k: v for k, v in os.environ.items() if not k.startswith("SOVL_")}
    given |= {
        "XDG_CONFIG_HOME": str(root / "config"),
        "SOVL_STORE__STATE_DIR": str(root / "state"),
        "SOVL_STORE__MODEL_DIR": str(root / "models"),
        "SOVL_BUS__RUNTIME_DIR": str(root / "run"),
    }
    return subprocess.run(
        [*SOVL, "doctor", *words],
        env=given | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def checks(root: Path, **environment: str) -> dict[str, dict[str, Any]]:
    done = doctor(root, "--json", **environment)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["well"] else 1)
    return {each["name"]: each for each in found["checks"]}


def test_nothing_is_wrong_with_a_fresh_installation(runtime: Path) -> None:
    found = checks(runtime)
    assert list(found) == [
        "installation",
        "config",
        "state directory",
        "databases",
        "model",
        "chat",
        "sockets",
        "memory",
        "disk",
        "GPU",
        "daemon",
    ]
    assert {each["state"] for each in found.values()} <= {"ok", "warning"}
    assert found["daemon"]["says"] == "it does not run"
    assert found["model"]["state"] == "warning"  # it is pulled at the first start
    assert all(each["next"] for each in found.values() if each["state"] != "ok")


def test_people_are_told_what_to_do_next(runtime: Path) -> None:
    done = doctor(runtime)
    assert done.returncode == 0
    assert "daemon: it does not run\n         → run: sovl run" in done.stdout


def test_a_mistake_in_the_config(runtime: Path) -> None:
    (runtime / "config" / "sovl").mkdir(parents=True)
    (runtime / "config" / "sovl" / "config.json").write_text('{"host": {"threads": -1}}')
    found = checks(runtime)
    assert found["config"]["state"] == "wrong"
    assert "host.threads" in found["config"]["says"]


def test_a_damaged_journal(runtime: Path) -> None:
    (runtime / "state").mkdir()
    file = runtime / "state" / "actions.db"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE a (b)")
    database.close()
    file.write_bytes(b"SQLite format 3\0" + b"rubbish" * 1000)
    found = checks(runtime)["databases"]
    assert (found["state"], "actions.db" in found["says"]) == ("wrong", True)
    assert found["next"]


@pytest.mark.parametrize(
    ("variable", "name"),
    [("SOVL_STORE__STATE_DIR", "state directory"), ("SOVL_BUS__RUNTIME_DIR", "sockets")],
)
def test_a_folder_that_cannot_be(runtime: Path, variable: str, name: str) -> None:
    (runtime / "file").write_text("")
    found = checks(runtime, **{variable: str(runtime / "file" / "below")})
    assert found[name]["state"] == "wrong"


def test_a_gpu_that_is_not_there(runtime: Path) -> None:
    found = checks(runtime, SOVL_HOST__DEVICE="cuda:7", CUDA_VISIBLE_DEVICES="")
    assert found["GPU"]["state"] == ("wrong" if found["GPU"]["says"].startswith("host") else "ok")


def test_a_model_that_is_not_there(runtime: Path) -> None:
    missing = str(runtime / "no-model")
    found = checks(runtime, SOVL_CORE_CONFIG__BASE_MODEL_NAME=missing)
    assert missing in found["model"]["says"]


def test_it_loads_no_torch(runtime: Path) -> None:
    done = doctor(runtime, PYTHONPROFILEIMPORTTIME="1")
    assert "| torch\n" not in done.stderr
