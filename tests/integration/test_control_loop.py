"""The loop in a running daemon: it acts on what it measures, and everything goes back again."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bus.topics import ControlAction, ControlDecision, MetricsSample
from sovl_daemon.client import CommandError
from tests import tiny_models
from tests.daemon import Daemon, running, until

TASK = """
name = "memory"
title = "memory health"
about = "Memory may run out."
[[metrics]]
name = "{metric}"
label = "Memory usage"
high = 1e13
levels = [{{ from = 0.0, word = "low" }}]
[[limits]]
metric = "{metric}"
{limits}
hard_s = 0.0
grey_s = 0.0
[[ladder]]
action = "limit_admission"
when = "Always."
"""
HARD = "hard = 0.5\ngrey = 0.2\nlow = 0.1"  # a machine always has more than this in use
GREY = "hard = 9e12\ngrey = 0.2\nlow = 0.1"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    models = tmp_path_factory.mktemp("models")
    folder = str(tiny_models.save(tiny_models.llama(), models / "tiny"))
    return {
        "store.model_dir": str(models / "store"),
        "core_config.base_model_name": folder,
        "core_config.scaffold_model_name": folder,
        "core_config.cross_attn_layers": [0, 1],
        "generation.system_prompt": "",
        "generation.max_new_tokens": 4,
        "controls_config.has_woken": True,
        "control.shadow": False,
    }


def write_task(root: Path, limits: str, metric: str = "memory.percent") -> None:
    folder = root / "state" / "tasks"
    folder.mkdir(parents=True)
    (folder / "memory.toml").write_text(TASK.format(metric=metric, limits=limits))


@pytest.fixture
def acting(runtime: Path, tiny: dict[str, Any]) -> Iterator[Daemon]:
    write_task(runtime, HARD)
    with running(runtime, **tiny) as daemon:
        yield daemon


def limit(daemon: Daemon) -> int:
    with daemon.client() as client:
        return int(client.control("config", key="generation.max_concurrent")["value"])


def in_force(daemon: Daemon) -> list[str]:
    with daemon.client() as client:
        return [each["action"] for each in client.ask("actions")["in_force"]]


def expect(daemon: Daemon, actions: list[str]) -> None:
    for _ in until(30):
        if (found := in_force(daemon)) == actions:
            return
    raise AssertionError(f"{found} in force, not {actions}\n{daemon.output()}")


def test_a_hard_limit_acts_and_revert_takes_it_back(acting: Daemon) -> None:
    expect(acting, ["limit_admission"])
    assert limit(acting) == 2
    with acting.client() as client:
        client.ask("actions", what="pause")
        (done,) = client.ask("actions", what="revert")["reverted"]
        (entry,) = client.ask("actions", what="history")["actions"]
    assert (done["action"], done["result"]) == ("limit_admission", "reverted")
    assert (entry["before"], entry["target"], entry["state"]) == ("8", "2", "reverted")
    assert entry["measured_before"] - entry["measured_after"] == 6
    assert limit(acting) == 8
    assert in_force(acting) == []
