"""The knob validate_architecture on a daemon whose tiny base has not the configured layers."""

from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.cli.daemon import EX_CONFIG
from sovl_daemon.testing import PATIENCE_S, Daemon, running
from tests import tiny_models

KEY = "training_config.dry_run_params.validate_architecture"


@pytest.fixture
def tiny(runtime: Path) -> dict[str, Any]:
    """Settings for a tiny base that is its own scaffold, and has two layers."""
    folder = str(tiny_models.save(tiny_models.llama(), runtime / "tiny"))
    return {
        "core_config.base_model_name": folder,
        "core_config.scaffold_model_name": folder,
        "core_config.cross_attn_layers": [5, 7],
        "generation.system_prompt": "",
        "store.model_dir": str(runtime / "models"),
    }


def events(daemon: Daemon) -> list[str]:
    return [str(each["event"]) for each in daemon.events()]


def test_a_dry_run_refuses_a_pair_that_does_not_fit(runtime: Path, tiny: dict[str, Any]) -> None:
    daemon = Daemon(runtime, **tiny).start("--dry-run")
    assert daemon.process.wait(PATIENCE_S) == EX_CONFIG, daemon.output()
    (line,) = daemon.output().splitlines()
    assert "core_config.cross_attn_layers: layer 5 cannot be fused" in line
    assert "architecture.valid" not in events(daemon)


@pytest.mark.parametrize("off", [("--dry-run", f"--set={KEY}=false"), (f"--set={KEY}=true",)])
def test_else_it_starts_all_the_same(
    runtime: Path, tiny: dict[str, Any], off: tuple[str, ...]
) -> None:
    with running(runtime, *off, **tiny) as daemon, daemon.client() as client:
        assert client.ask("generate", prompt="Hi", max_tokens=2)["tokens"] <= 2
    assert "architecture.valid" not in events(daemon)


def test_a_dry_run_tells_how_a_pair_fits(runtime: Path, tiny: dict[str, Any]) -> None:
    fitting = tiny | {"core_config.cross_attn_layers": [0, 1]}
    with running(runtime, "--dry-run", **fitting) as daemon, daemon.client() as client:
        assert client.ask("generate", prompt="Hi", max_tokens=2)["tokens"] <= 2
    (told,) = [each for each in daemon.events() if each["event"] == "architecture.valid"]
    assert told["layers"] == [0, 1]
    assert (told["base_layers"], told["adapters"], told["translated"]) == (2, 4, 1)
