"""A training that is paused for want of memory, and one that is made to learn more gently."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.testing import PATIENCE_S, Daemon, running, until
from sovl_daemon.testing.level import ACT, HOLD, Level, expect, write_task
from tests import tiny_models

EPOCHS = 80  # more than it gets through before it is paused


class Training:
    """Trains in a thread of its own, and keeps what it was told."""

    def __init__(self, daemon: Daemon) -> None:
        self.steps: list[dict[str, Any]] = []
        self._daemon = daemon
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        pairs = self._daemon.root / "pairs.jsonl"
        rows = [{"prompt": f"Say {n}", "response": str(n)} for n in range(20)]
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with self._daemon.client() as client:
            for step in client.stream("train", file=str(pairs), epochs=EPOCHS, force=True):
                self.steps.append(step)

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def wait_for(self, text: str) -> None:
        for _ in until():
            if any(text in step.get("text", "") for step in self.steps):
                return
        raise AssertionError(f"never {text!r}: {self.steps[-3:]}\n{self._daemon.output()}")

    def wait(self) -> dict[str, Any]:
        self._thread.join(PATIENCE_S)
        assert not self.goes_on
        return self.steps[-1]


@contextmanager
def training_daemon(root: Path, folder: Path, action: str) -> Iterator[Daemon]:
    write_task(root, action=action)
    settings = tiny_models.settings(folder) | {
        "control.shadow": False,
        "training_config.max_patience": 1000,
        "training_config.accumulation_steps": 1,
    }
    with running(root, **settings) as daemon:
        daemon.logged("scaffold.ready")
        yield daemon


@pytest.mark.long  # it trains twice, long enough to be paused in the middle
def test_a_paused_training_goes_on_as_if_nothing_had_happened(
    runtime: Path, tmp_path: Path
) -> None:
    results = []
    for paused in (False, True):
        root = runtime / str(paused)
        root.mkdir()
        with (
            training_daemon(root, tmp_path, "pause_training") as daemon,
            closing(Level(daemon)) as level,
        ):
            training = Training(daemon)
            if paused:
                training.wait_for("Epoch 2")
                level.value = ACT
                training.wait_for("Paused for want of memory")
                expect(daemon, ["pause_training"])
                assert training.goes_on
                level.value = HOLD
                with daemon.client() as client:
                    client.ask("actions", what="pause")
                    (done,) = client.ask("actions", what="revert")["reverted"]
                assert done["result"] == "reverted"
                training.wait_for("Going on after epoch")
            results.append(training.wait())
    assert results[0]["validation"] == results[1]["validation"]
    assert results[0]["epochs"] == results[1]["epochs"] == EPOCHS


def eased(runtime: Path, folder: Path, action: str) -> dict[str, Any]:
    """Ease a training that goes on, and take it back; return the journal's entry and the gauges."""
    with (
        training_daemon(runtime, folder, action) as daemon,
        closing(Level(daemon)) as level,
    ):
        training = Training(daemon)
        training.wait_for("Epoch 1")
        level.value = ACT
        expect(daemon, [action])
        level.value = HOLD
        with daemon.client() as client:
            metrics = client.control("metrics")["tasks"]["training"]
            client.ask("actions", what="pause")
            (entry,) = client.ask("actions", what="history")["actions"]
            (done,) = client.ask("actions", what="revert")["reverted"]
        training.wait()
    assert done["result"] == "reverted"
    return {**entry, "metrics": metrics}


def test_a_gentler_rate_is_that_of_the_next_update(runtime: Path, tmp_path: Path) -> None:
    entry = eased(runtime, tmp_path, "lower_learning_rate")
    assert entry["metrics"]["training.gradient_norm"]["value"] > 0
    assert (entry["before"], entry["target"], entry["measured_after"]) == ("1", "0.5", 0.5)


def test_smaller_batches_are_those_of_the_next_step(runtime: Path, tmp_path: Path) -> None:
    entry = eased(runtime, tmp_path, "smaller_batches")
    assert (entry["before"], entry["target"], entry["measured_after"]) == ("1", "0.5", 0.5)
    assert entry["predicted"] == 0.5
