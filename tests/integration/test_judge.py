"""The judge of a running daemon: fitted to its model by a command, asked, and made to explain."""

import json
import math
from pathlib import Path

from sovl_daemon.models import ModelStore
from sovl_daemon.testing import Daemon, running, until
from sovl_daemon.testing.level import write_task
from tests import tiny_models

GREY = {"hard": 99.9, "grey": 0.2, "low": 0.1}  # a machine always has that much in use


def judges_by(daemon: Daemon, way: str) -> bool:
    """Whether it says so within some seconds: it tells each second how it judges."""
    for _ in until():
        with daemon.client() as client:
            if client.control("stats")["agents"]["judge"].get("by") == way:
                return True
    return False


def test_a_probe_is_fitted_to_the_daemons_model_and_used(runtime: Path, tmp_path: Path) -> None:
    settings = tiny_models.settings(tmp_path, positions=2048)
    models = Path(settings["store.model_dir"])
    write_task(runtime, GREY, metric="memory.percent", high=100.0, pace={"ask_every_s": 0.5})
    with running(runtime, **settings, **{"generation.context_length": 2048}) as daemon:
        (name,) = ModelStore(models).names()
        daemon.environment |= {"SOVL_STORE__MODEL_DIR": str(models)}
        for _ in until():
            without = daemon.sovl("judge", "explain", "memory")
            assert without.returncode != 0
            if "is soundly read now" not in without.stderr:  # before the first sample
                break
        assert "there is no probe for this model: run sovl judge fit" in without.stderr
        assert judges_by(daemon, "words")
        fitted = daemon.sovl("judge", "fit", name, "--share", "0.05", "--json")
        assert fitted.returncode == 0, fitted.stderr
        last = json.loads(fitted.stdout.splitlines()[-1])
        assert (last["event"], last["model"], last["layer"]) == ("fitted", name, 1)
        assert set(last["scores"]) >= {"in-domain", "unseen log lines", "unseen task"}
        assert sorted(each.name for each in (runtime / "state" / "probes").iterdir()) == [
            f"{name}.json",
            f"{name}.safetensors",
        ]
        said = json.loads(daemon.sovl("judge", "explain", "memory", "--json").stdout)
        assert judges_by(daemon, "probe")
        logit = math.log(said["p_true"] / said["p_false"])
        assert abs(sum(each["logit"] for each in said["shares"]) - logit) < 1e-3
        assert said["shares"][0]["text"].startswith("Level: ")
        assert said["prompt"].startswith("Memory may run out.")
        for _ in until():
            told = daemon.sovl("judge", "why", "--task", "memory")
            if told.returncode == 0:
                break
        assert "on memory" in told.stdout
        assert "Why: " in told.stdout


def test_without_a_log_or_a_probe_one_line_says_so(runtime: Path) -> None:
    daemon = Daemon(runtime)
    told = daemon.sovl("judge", "why")
    assert told.returncode == 2
    assert "there is no log of decisions yet" in told.stderr
    assert len(told.stderr.splitlines()) == 1
